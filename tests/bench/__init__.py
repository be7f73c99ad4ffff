"""Measures; never judges. `make bench` is `python -m tests.bench`.

    experiment ── starts ──▶ Wan (hosts a, b) ── b: one server per kind of peer, loaded with `data`
        │
        └── round by round, workload by workload, peer by peer:
              run `client` on a ──▶ one JSON line ──▶ believed if the link was on time ──▶ results
                                                     (else repeated)
    report ── medians ──▶ JSON, a table, one picture per workload

`workloads` says what is read, `peers/` how each peer reads it, `controls` what iperf3 and
arithmetic allow. Every byte is checked by checksum.
"""
