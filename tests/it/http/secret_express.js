// Express with a shared secret in a middleware and Node's timingSafeEqual: arguments are the
// address and the secret.
const crypto = require("crypto");
const express = require("express");

const [address, secret] = process.argv.slice(2);
const colon = address.lastIndexOf(":");
const hash = (text) => crypto.createHash("sha256").update(text).digest();

const app = express();
app.use((req, res, next) => {
  const sent = req.get("X-Backend-Secret") || "";
  if (!crypto.timingSafeEqual(hash(sent), hash(secret))) {
    return res.status(403).send("Forbidden");
  }
  next();
});
app.use(express.text({ type: "*/*", limit: "1mb" }));
app.get(/.*/, (req, res) => res.send("express\n"));
app.post(/.*/, (req, res) => res.send(`express ${req.body.length}\n`));
app.listen(Number(address.slice(colon + 1)), address.slice(0, colon));
