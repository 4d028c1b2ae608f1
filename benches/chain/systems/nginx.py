"""nginx as gateway and as acceptor, with the http proxy and with the stream proxy."""

import os

from systems.base import System, addr, cores, openssl_of, said

STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"

TLS = """ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        ssl_ecdh_curve X25519;"""


class Nginx(System):
    program = "nginx"
    program_env = "NGINX"
    session_reuse = "on"

    @classmethod
    def version(cls):
        return said(cls.binary(), "-v").split()[-1].replace("/", " ")

    @classmethod
    def tls(cls):
        return openssl_of(said(cls.binary(), "-V"))

    def main(self, role):
        return f"""daemon off;
user root;
worker_processes {cores()};
pid {self.site.dir}/{role}.pid;
error_log {self.site.dir}/{role}.log error;
events {{ worker_connections 16000; }}
"""

    def upstream_tls(self):
        p = self.site.pki
        return f"""proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        proxy_ssl_conf_command Groups X25519;
        proxy_ssl_certificate {p.client.crt};
        proxy_ssl_certificate_key {p.client.key};
        proxy_ssl_trusted_certificate {p.ca};
        proxy_ssl_verify on;
        proxy_ssl_name acceptor.test;
        proxy_ssl_server_name on;
        proxy_ssl_session_reuse {self.session_reuse};"""

    def server_tls(self, leaf):
        return f"{TLS}\n        ssl_certificate {leaf.crt};\n        ssl_certificate_key {leaf.key};"

    def client_check(self):
        return f"""ssl_client_certificate {self.site.pki.ca};
        ssl_verify_client on;
        allow {self.site.allowed};
        deny all;"""

    def launch(self, gateway, acceptor):
        for role, body in (("acceptor", acceptor), ("gateway", gateway)):
            config = self.write(f"{role}.conf", self.main(role) + body)
            self.run(role, [self.binary(), "-c", config, "-e", self.site.dir / f"{role}.log"])
        self.wait_ready()


class NginxHttp(Nginx):
    name = "nginx-http"
    http2 = True

    def http(self, role, server, upstream):
        temp = "\n    ".join(f"{kind}_temp_path {self.site.dir}/{role}-{kind};"
                             for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return f"""http {{
    access_log off;
    {temp}
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_request_buffering off;
    proxy_buffers 8 64k;
    proxy_buffer_size 16k;
    proxy_busy_buffers_size 128k;
    proxy_max_temp_file_size 0;
    upstream next {{
        server {addr(upstream)};
        keepalive 128;
        keepalive_requests 1000000000;
        keepalive_timeout 300s;
    }}
    server {{
        {server}
    }}
}}
"""

    def start(self):
        s, p = self.site, self.site.pki
        self.launch(
            self.http("gateway", f"""listen {addr(s.gateway)} ssl http2 reuseport;
        {self.server_tls(p.gateway)}
        {self.upstream_tls()}
        location / {{ proxy_pass https://next; }}""", s.acceptor_dial),
            self.http("acceptor", f"""listen {addr(s.acceptor)} ssl reuseport;
        {self.server_tls(p.acceptor)}
        {self.client_check()}
        location / {{ proxy_pass http://next; }}""", s.backend))


class NginxStream(Nginx):
    name = "nginx-stream"
    mode = "tcp"

    @classmethod
    def missing(cls):
        return super().missing() or (None if os.path.exists(STREAM_MODULE)
                                     else "nginx stream module not found")

    def main(self, role):
        return f"load_module {STREAM_MODULE};\n" + super().main(role)

    def stream(self, server):
        return f"""stream {{
    proxy_timeout 300s;
    proxy_buffer_size 64k;
    server {{
        {server}
    }}
}}
"""

    def start(self):
        s, p = self.site, self.site.pki
        self.launch(
            self.stream(f"""listen {addr(s.gateway)} ssl reuseport;
        {self.server_tls(p.gateway)}
        proxy_ssl on;
        {self.upstream_tls()}
        proxy_pass {addr(s.acceptor_dial)};"""),
            self.stream(f"""listen {addr(s.acceptor)} ssl reuseport;
        {self.server_tls(p.acceptor)}
        {self.client_check()}
        proxy_pass {addr(s.backend)};"""))


class NginxStreamFull(NginxStream):
    """As nginx-stream, but every upstream handshake is a full one."""
    name = "nginx-stream-full"
    session_reuse = "off"


SYSTEMS = [NginxHttp, NginxStream, NginxStreamFull]
