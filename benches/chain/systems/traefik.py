"""Traefik as gateway and as acceptor, with HTTP routers and with TCP routers."""

import json

from systems.base import System, addr, said

GO_ENV = {"GODEBUG": "tlsmlkem=0"}    # X25519 alone, as everyone else here


class Traefik(System):
    program = "traefik"
    program_env = "TRAEFIK"

    @classmethod
    def version(cls):
        return "Traefik " + said(cls.binary(), "version").split()[1]

    @classmethod
    def tls(cls):
        shown = said(cls.binary(), "version")
        return "crypto/tls of Go " + shown.split("Go version:")[1].split()[0].removeprefix("go")

    def dynamic(self, leaf, listener, upstream, check):
        raise NotImplementedError

    def certificates(self, leaf, check):
        options = {"minVersion": "VersionTLS13", "curvePreferences": ["X25519"]}
        if check:
            options["clientAuth"] = {"caFiles": [str(self.site.pki.ca)],
                                     "clientAuthType": "RequireAndVerifyClientCert"}
        pair = {"certFile": str(leaf.crt), "keyFile": str(leaf.key)}
        return {"options": {"default": options},
                "stores": {"default": {"defaultCertificate": pair}}}

    def upstream_tls(self):
        p = self.site.pki
        return {"serverName": "acceptor.test", "rootCAs": [str(p.ca)],
                "certificates": [{"certFile": str(p.client.crt), "keyFile": str(p.client.key)}]}

    def start(self):
        s, p = self.site, self.site.pki
        roles = (("acceptor", s.acceptor, p.acceptor, s.backend, True),
                 ("gateway", s.gateway, p.gateway, s.acceptor_dial, False))
        for role, listen, leaf, upstream, check in roles:
            dynamic = self.routes(upstream, check)
            dynamic["tls"] = self.certificates(leaf, check)
            rules = self.write(f"{role}-rules.yml", json.dumps(dynamic, indent=1))
            timeouts = {"readTimeout": 0, "writeTimeout": 0, "idleTimeout": "300s"}
            static = self.write(f"{role}.yml", json.dumps({
                "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
                "log": {"level": "ERROR"},
                "entryPoints": {"in": {"address": addr(listen),
                                       "transport": {"respondingTimeouts": timeouts,
                                                     "lifeCycle": {"graceTimeOut": "1s"}}}},
                "providers": {"file": {"filename": str(rules), "watch": False}},
            }, indent=1))
            self.run(role, [self.binary(), f"--configFile={static}"], GO_ENV)
        self.wait_ready()


class TraefikHttp(Traefik):
    name = "traefik-http"
    http2 = True

    def routes(self, upstream, check):
        router = {"entryPoints": ["in"], "rule": "PathPrefix(`/`)", "service": "next", "tls": {}}
        balancer = {"servers": [{"url": f"{'http' if check else 'https'}://{addr(upstream)}"}],
                    "serversTransport": "next"}
        transport = {"maxIdleConnsPerHost": 128}
        http = {"routers": {"all": router}, "services": {"next": {"loadBalancer": balancer}},
                "serversTransports": {"next": transport}}
        if check:
            router["middlewares"] = ["sources"]
            http["middlewares"] = {"sources": {"ipAllowList": {"sourceRange": [self.site.allowed]}}}
        else:
            transport.update(self.upstream_tls())
        return {"http": http}


class TraefikTcp(Traefik):
    name = "traefik-tcp"
    mode = "tcp"

    def routes(self, upstream, check):
        router = {"entryPoints": ["in"], "rule": "HostSNI(`*`)", "service": "next", "tls": {}}
        server = {"address": addr(upstream)}
        balancer = {"servers": [server]}
        tcp = {"routers": {"all": router}, "services": {"next": {"loadBalancer": balancer}}}
        if check:
            router["middlewares"] = ["sources"]
            tcp["middlewares"] = {"sources": {"ipAllowList": {"sourceRange": [self.site.allowed]}}}
        else:
            server["tls"] = True
            balancer["serversTransport"] = "next"
            tcp["serversTransports"] = {"next": {"tls": self.upstream_tls()}}
        return {"tcp": tcp}


SYSTEMS = [TraefikHttp, TraefikTcp]
