"""Measures; never judges. `make bench` is `python -m tests.bench`.

    experiment ── starts ──▶ Wan (hosts a, b) ── b: one server per kind of peer, loaded with `data`
        │
        └── round by round, workload by workload, peer by peer:
              `trial`: run `client` on a ──▶ one JSON line ──▶ believed if the link was on time
                                                     (else repeated) ──▶ `results`
    report ── medians (`figures`) ──▶ JSON, tables, one picture per workload
    targets ── the lines of "How good" ──▶ line, target, measured, met or not

`plans` says what is measured where, `workloads` what is read, `peers/` how each peer reads it,
`controls` what iperf3 and arithmetic allow. Every byte is checked by checksum.
"""
