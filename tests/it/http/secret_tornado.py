"""Tornado with a shared secret in prepare(), as its guide has checks: arguments are the address
and the secret."""

import hmac
import sys

import tornado.ioloop
import tornado.web

address, secret = sys.argv[1:]


class Handler(tornado.web.RequestHandler):
    def prepare(self):
        sent = self.request.headers.get("X-Backend-Secret", "")
        if not hmac.compare_digest(sent.encode(), secret.encode()):
            raise tornado.web.HTTPError(403)

    def get(self):
        self.write("tornado\n")

    def post(self):
        self.write(f"tornado {len(self.request.body)}\n")


host, port = address.rsplit(":", 1)
tornado.web.Application([(r"/.*", Handler)]).listen(int(port), host)
tornado.ioloop.IOLoop.current().start()
