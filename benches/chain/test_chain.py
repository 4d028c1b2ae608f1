"""What measures nothing: reading tools' output, tables and plots. Run: python3 -m unittest discover benches/chain"""

import json
import tempfile
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path

import hotspots
import report
import storm
import syscalls
from systems.base import openssl_of

SVG = "{http://www.w3.org/2000/svg}"


def results():
    systems = {"portcullis-http": {"mode": "http", "version": "portcullis 0.1.0", "tls": "rustls 0.23"},
               "haproxy-http": {"mode": "http", "version": "HAProxy 2.6", "tls": "OpenSSL 3.0"},
               "nginx-http": {"mode": "http", "version": "nginx 1.22", "tls": "OpenSSL 3.0"}}
    each = lambda cost, other=0.0: {"req/s": 1e9 / cost, "CPU us/req": cost, "gateway": 0.6, "idle": 0.0,
                                    "other": other, "speed": 1.5, "problems": []}
    return {"kind": "chain", "systems": systems,
            "conditions": {"cpu": "a CPU", "cores": 2, "kernel": "6.18", "commit": "abc", "date": "2026-11-27"},
            "results": {"s1": {"portcullis-http": [each(80.0), each(90.0), each(70.0)],
                               "haproxy-http": [each(200.0), each(900.0, other=0.4)],
                               "nginx-http": [each(100.0), {"problems": ["it broke"]}]}}}


class Tables(unittest.TestCase):
    def test_a_table_has_medians_spreads_and_every_tls_library(self):
        text = report.chain_tables(results())
        self.assertIn("| portcullis-http | HTTP mode | portcullis 0.1.0 | rustls 0.23 |", text)
        self.assertIn("| haproxy-http | HTTP mode | HAProxy 2.6 | OpenSSL 3.0 |", text)
        self.assertIn("80 (70–90)", text)
        for condition in ("a CPU", "2 cores", "6.18", "`abc`", "2026-11-27"):
            self.assertIn(condition, text)

    def test_disturbed_and_failed_samples_are_left_out(self):
        rows = report.measured(results())["s1"]
        self.assertEqual([f["CPU us/req"] for f in rows["haproxy-http"]], [200.0])
        self.assertEqual(len(rows["nginx-http"]), 1)

    def test_nothing_is_published_without_the_tls_library(self):
        data = results()
        data["systems"]["nginx-http"]["tls"] = ""
        with self.assertRaises(SystemExit):
            report.chain_tables(data)

    def test_capacity_follows_the_gateways_part(self):
        # 80 us, 60 % of it at the gateway: 48 us; 32 cores at 60 % are 19.2 CPU seconds a second
        self.assertIn("| 400,000 req/s | 600,000 req/s |", report.capacity(results()))

    def test_slope(self):
        self.assertAlmostEqual(report.slope([(0, 5), (1, 7), (2, 9)]), 2)


class Storm(unittest.TestCase):
    load = lambda self, p99, **other: {"done": storm.REQUESTS * storm.SECONDS, "elapsed": 10.0, "failed": 0, "not_200": 0,
                                       "resumed": 0, "error": "", "p50_us": p99 / 2, "p99_us": p99,
                                       "p999_us": 2 * p99, **other}

    def figures(self, **arrived):
        machine = {"gateway": 0.5, "idle": 0.4, "other": 0.0, "speed": 1.5}
        return storm.figures(self.load(400.0), self.load(600.0), self.load(9000.0, **{"done": 5000, **arrived}),
                             {**machine, "idle": 0.8, "cpu": 0.1}, {**machine, "cpu": 0.2})

    def test_the_rows_hold_what_was_quiet_and_what_was_beside(self):
        figures = self.figures()
        self.assertEqual((figures["times p99"], figures["new/s"], figures["problems"]), (1.5, 500.0, []))
        self.assertAlmostEqual(figures["CPU us/new"], 200.0)
        data = {**results(), "kind": "storm", "results": {"nginx-http": [figures], "portcullis-http": [figures] * 2,
                                                          "haproxy-http": [{"problems": ["it broke"]}]}}
        text = report.storm_table(data)
        self.assertIn("| portcullis-http | 200 (200–200) → 300 (300–300) | 400 (400–400) → 600 (600–600) |", text)
        self.assertIn("| **1.50** |", text)
        self.assertIn("| 80% → 40% |", text)
        self.assertNotIn("| haproxy-http | –", text)

    def test_a_flood_that_did_not_come_is_a_problem(self):
        self.assertIn("new: only 400 a second", self.figures(done=4000)["problems"])
        self.assertIn("new: 3 failed reset", self.figures(failed=3, error="reset")["problems"])


class Plot(unittest.TestCase):
    def test_ratios_are_to_the_best_peer(self):
        [(heading, bars)] = report.ratios(results(), "http")
        self.assertIn("best peer: nginx-http, 100", heading)
        self.assertEqual(bars, [("portcullis-http", 0.8), ("haproxy-http", 2.0), ("nginx-http", 1.0)])

    def test_the_plot_is_accessible_and_the_same_each_time(self):
        text = report.drawing(results(), "http")
        self.assertEqual(text, report.drawing(results(), "http"))
        root = ET.fromstring(text)
        title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
        self.assertEqual(root.get("aria-labelledby"), f"{title.get('id')} {desc.get('id')}")
        self.assertIn("HAProxy 2.6 (OpenSSL 3.0)", desc.text)
        self.assertIn("prefers-color-scheme: dark", root.find(f"{SVG}style").text)
        widths = [float(r.get("width")) for r in root.iter(f"{SVG}rect") if r.get("fill")]
        self.assertAlmostEqual(widths[1] / widths[0], 2.5, places=2)

    def test_long_bars_are_cut_and_say_so(self):
        data = results()
        for sample in data["results"]["s1"]["haproxy-http"]:
            sample["CPU us/req"] = 1000.0
        self.assertIn("10.00 (cut)", report.drawing(data, "http"))


class Pages(unittest.TestCase):
    def test_blocks_are_written_and_a_stale_page_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            pages = Path(folder)
            page = pages / "README.md"
            page.write_text("before\n<!-- results: standing -->\nold\n<!-- end -->\nafter\n"
                            "<!-- results: soak -->\nold\n<!-- end -->\n")
            (pages / "results").mkdir()
            (pages / "results" / "chain.json").write_text(json.dumps(results()))
            self.assertEqual(report.run(check=True, pages=pages), 1)
            self.assertIn("old", page.read_text())
            self.assertEqual(report.run(pages=pages), 0)
            text = page.read_text()
            self.assertTrue(text.startswith("before\n") and "after\n" in text and "old" not in text)
            self.assertIn("`scripts/bench soak` does it", text)
            self.assertIn("(chain-http.svg)", text)
            self.assertEqual([path.name for path in pages.glob("*.svg")], ["chain-http.svg"])
            self.assertEqual(report.run(check=True, pages=pages), 0)


class Tools(unittest.TestCase):
    def test_the_tls_library_is_the_one_at_run_time(self):
        self.assertEqual(openssl_of("Compiled with OpenSSL 3.0.9 30 May 2023\nRunning  with OpenSSL 3.0.22 25 Aug"),
                         "OpenSSL 3.0.22")
        self.assertEqual(openssl_of("built with OpenSSL 3.0.22 25 Aug 2026"), "OpenSSL 3.0.22")
        self.assertEqual(openssl_of("Built with OpenSSL version : OpenSSL 3.0.1\n"
                                    "Running on OpenSSL version : OpenSSL 3.0.22 25 Aug"), "OpenSSL 3.0.22")

    def test_symbols_find_their_group(self):
        for kernel, symbol, expected in (
                (True, "copy_user_generic", "kernel: copying"), (True, "tcp_sendmsg_locked", "kernel: network"),
                (True, "do_epoll_wait", "kernel: scheduling and waiting"), (True, "entry_SYSCALL_64", "kernel: other"),
                (False, "aws_lc_0_47_0_aes_gcm_encrypt_avx512", "cryptography"),
                (False, "__memmove_avx512_unaligned_erms", "copying"), (False, "_int_malloc", "allocation"),
                (False, "<hyper::proto::h1::conn::Conn<I,B,T>>::poll_read_head", "HTTP"),
                (False, "tokio::runtime::scheduler::multi_thread::worker::Context::park", "runtime"),
                (False, "portcullis::net::relay::relay::{{closure}}", "our own code")):
            self.assertEqual(hotspots.group(kernel, "portcullis", symbol), expected, symbol)

    def test_perf_and_strace_are_read(self):
        symbols = hotspots.parse("# head\n  50.00%|libcrypto.so.3|[.] aes_gcm_enc\n 20.50%|[kernel.kallsyms]|[k] tcp_ack\n")
        self.assertEqual(symbols, {"aes_gcm_enc (libcrypto.so.3)": (0.5, "cryptography"),
                                   "tcp_ack (kernel)": (0.205, "kernel: network")})
        calls = syscalls.parse("% time     seconds  usecs/call     calls    errors syscall\n"
                               "------ ----------- ----------- --------- --------- ----------------\n"
                               " 60.00    0.000030           1        30         2 read\n"
                               " 40.00    0.000020           1        20           write\n"
                               "------ ----------- ----------- --------- --------- ----------------\n"
                               "100.00    0.000050           1        50         2 total\n")
        self.assertEqual(calls, {"read": 30, "write": 20})


if __name__ == "__main__":
    unittest.main()
