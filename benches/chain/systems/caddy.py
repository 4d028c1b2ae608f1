"""Caddy as gateway and as acceptor (HTTP only)."""

from systems.base import System, addr, said

GLOBAL = """{
    admin off
    auto_https off
    persist_config off
    grace_period 1s
    servers {
        strict_sni_host insecure_off
    }
    log {
        level ERROR
    }
}
"""


class Caddy(System):
    name = "caddy"
    http2 = True
    program = "caddy"
    program_env = "CADDY"

    @classmethod
    def version(cls):
        return "Caddy " + said(cls.binary(), "version").split()[0].lstrip("v")

    @classmethod
    def tls(cls):
        return "crypto/tls of Go " + said(cls.binary(), "build-info").split()[1].removeprefix("go")

    def start(self):
        s, p = self.site, self.site.pki
        gateway = self.write("gateway.caddy", GLOBAL + f"""https://:{s.gateway[1]} {{
    bind {s.gateway[0]}
    tls {p.gateway.crt} {p.gateway.key} {{
        protocols tls1.3 tls1.3
        curves x25519
    }}
    reverse_proxy https://{addr(s.acceptor_dial)} {{
        transport http {{
            tls_client_auth {p.client.crt} {p.client.key}
            tls_trust_pool file {p.ca}
            tls_server_name acceptor.test
            tls_curves x25519
            keepalive_idle_conns_per_host 128
        }}
    }}
}}
""")
        acceptor = self.write("acceptor.caddy", GLOBAL + f"""https://:{s.acceptor[1]} {{
    bind {s.acceptor[0]}
    tls {p.acceptor.crt} {p.acceptor.key} {{
        protocols tls1.3 tls1.3
        curves x25519
        client_auth {{
            mode require_and_verify
            trust_pool file {p.ca}
        }}
    }}
    @outside not remote_ip {s.allowed}
    abort @outside
    reverse_proxy http://{addr(s.backend)} {{
        transport http {{
            keepalive_idle_conns_per_host 128
        }}
    }}
}}
""")
        home = {"HOME": str(s.dir), "XDG_DATA_HOME": str(s.dir), "XDG_CONFIG_HOME": str(s.dir)}
        for role, config in (("acceptor", acceptor), ("gateway", gateway)):
            self.run(role, [self.binary(), "run", "--adapter", "caddyfile", "--config", config], home)
        self.wait_ready()


SYSTEMS = [Caddy]
