"""Where the CPU goes: perf over both processes of a chain, its symbols sorted into groups."""

import re
import signal
import subprocess

import measure
import scenarios
from procs import Meter

# The first pattern that is found in "object symbol" names the group. "k:" stands before symbols
# of the kernel.
GROUPS = (
    # without hardware counters a sample waits until interrupts are on again, and falls here
    ("kernel: interrupts off", r"^k: (_raw_spin_unlock_irq|finish_task_switch|handle_softirqs|__local_bh_enable|"
                               r"__do_softirq|do_idle|.*_rcu_read_unlock)"),
    ("kernel: copying", r"^k: .*(copy_user|copy_to_user|copy_from_user|copy_to_iter|copy_from_iter|"
                        r"_copy_|csum_partial|rep_movs|memcpy|memset|clear_page|skb_copy|copy_page|"
                        r"copyin|copyout|clear_user|sendfile|splice)"),
    ("kernel: scheduling and waiting", r"^k: .*(sched|epoll|ep_|futex|wake|wait|ttwu|switch|hrtimer|"
                                       r"timer|poll|idle|pick_next|enqueue|dequeue|update_curr|"
                                       r"eventfd|rq_|cfs|clockevent|tick|rcu|finish_task)"),
    ("kernel: network", r"^k: .*(tcp|inet|ip_|ipv4|sk_|skb|sock|net|nf_|loopback|dev_|qdisc|xmit|"
                        r"__ip|softirq|napi|conntrack|fib|route|dst_|neigh|send|recv|local_bh|"
                        r"lock_sock|release_sock|checksum|csum|port|bind|listen|accept|connect)"),
    ("kernel: memory", r"^k: .*(alloc|free|slab|slub|page|kmem|mm_|vma|folio|obj_cgroup|memcg|brk|mmap)"),
    ("kernel: other", r"^k: "),
    ("cryptography", r"(?i)(aws_lc|aes|gcm|ghash|sha\d|chacha|poly1305|x25519|fe25519|curve25519|p256|p384|"
                     r"ecp_|ecdsa|ecdh|bn_|mont|mlkem|ml_kem|keccak|hmac|hkdf|evp_|crypto_|rand_|drbg|"
                     r"libcrypto|bignum|gfp|edwards|nistz|jitter|entropy|\bec_|GFp|CRYPTO|cipher)"),
    ("copying", r"(memcpy|memmove|memset|memcmp|bcmp|rep_mov)"),
    ("allocation", r"(malloc|calloc|realloc|_int_free|\bc?free\b|unlink_chunk|__rdl_|__rust_alloc|"
                   r"__rust_dealloc|alloc::alloc|raw_vec|sysmalloc|arena|tcache|_mid_memalign)"),
    ("TLS", r"(?i)(rustls|webpki|libssl|ssl_|tls|x509|asn1|x509_parser|der_parser)"),
    ("HTTP", r"(?i)(hyper|\bh2::|http|httparse|HeaderMap|headers?::|wire::(framing|forwarded|host|path))"),
    ("runtime", r"(tokio|mio::|futures|std::sys|parking_lot|pthread|syscall|__GI___|clock_gettime|vdso|"
                r"epoll|\bsend\b|\brecv\b|\bread\b|\bwrite\b|__send|__recv|__libc_|park|waker)"),
    ("our own code", r"portcullis"),
    ("other", r""),
)


def group(kernel, shared_object, symbol):
    text = f"k: {symbol}" if kernel else f"{shared_object} {symbol}"
    # what is generic over our types is not ours: its own name comes first
    return next(name for name, pattern in GROUPS if re.search(pattern, text))


def parse(report):
    """{symbol: (share, group)} of perf's report with "|" between its fields."""
    found = {}
    for line in report.splitlines():
        cells = [c.strip() for c in line.split("|")]
        if line.startswith("#") or len(cells) < 3 or not cells[0].endswith("%"):
            continue
        shared_object, name = cells[1], "|".join(cells[2:])
        kernel, symbol = name.startswith("[k]"), name.removeprefix("[k]").removeprefix("[.]").strip()
        key = f"{symbol} ({'kernel' if kernel else shared_object})"
        share = float(cells[0].rstrip("%")) / 100
        found[key] = (found.get(key, (0, ""))[0] + share, group(kernel, shared_object, symbol))
    return found


class Recorder(Meter):
    """A meter that records what the processes do meanwhile."""

    def __init__(self, directory):
        self.directory, self.recorded = directory, []

    def __call__(self, system):
        super().__init__(system)
        return self

    def __enter__(self):
        self.data = self.directory / f"perf{len(self.recorded)}"
        self.perf = subprocess.Popen(
            ["perf", "record", "-q", "-F", "997", "-o", self.data, "-p", ",".join(map(str, self.pids))],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return super().__enter__()

    def __exit__(self, *exc):
        super().__exit__(*exc)
        self.perf.send_signal(signal.SIGINT)
        self.perf.wait(20)
        shown = subprocess.run(["perf", "report", "-i", self.data, "--stdio", "--no-children", "-t", "|",
                                "-F", "overhead,dso,symbol", "--percent-limit", "0"],
                               capture_output=True, text=True, timeout=60)
        self.recorded.append(parse(shown.stdout))


def run(rig, results, chosen, keys):
    for scenario in measure.choose(keys, scenarios.ALL, "scenario"):
        if scenario is scenarios.S6 or scenario.missing():
            continue
        for cls in filter(scenario.applies, chosen):
            rig.meter = Recorder(rig.dir)
            figures = measure.sample(rig, scenario, cls)
            blocks = [b for b in rig.meter.recorded if b]
            if not blocks:
                print(f"  no profile of {scenario.key} {cls.name}: may perf record here?")
                continue
            groups, symbols = {}, {}
            for block in blocks:
                for symbol, (share, name) in block.items():
                    groups[name] = groups.get(name, 0) + share / len(blocks)
                    symbols[symbol] = symbols.get(symbol, 0) + share / len(blocks)
            top = sorted(symbols.items(), key=lambda pair: -pair[1])[:12]
            results.add(cls, [scenario.key, cls.name], {
                "groups": groups, "top": dict(top), "problems": figures["problems"]})
