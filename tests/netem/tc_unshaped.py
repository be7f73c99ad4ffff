"""The tc backend's process without its shaping, for kernels that have no netem."""

from dsm_netem import tc_process
from dsm_netem.commands import read_setup

if __name__ == "__main__":
    tc_process.Router._shape = lambda *_: None  # type: ignore[method-assign]
    tc_process.run(read_setup())
