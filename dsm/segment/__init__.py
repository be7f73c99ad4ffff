"""Segment files: shared memory with a name, in one format for producers, nodes and clients.

    create_ring, create_region   a new segment, opened to write
    open_segment                 an existing one, to read, or to be its one writer
    RingReader, RingWriter       blocks, appended and read in place
    RegionReader, RegionWriter   flat bytes, changed by commits, read as snapshots
    RingShadow, RegionShadow     local replicas of the same geometry, filled bit by bit
    Bell                         wakes whoever waits for a segment to change

The format is described in `ARCHITECTURE.md` and, to the byte, in `dsm.segment.layout`.
"""

from dsm.segment.bell import Bell
from dsm.segment.block import Block, BlockRun
from dsm.segment.cursor import RingCursor
from dsm.segment.files import delete_segment, list_names, name_of, path_of
from dsm.segment.opening import create_region, create_ring, open_region, open_ring, open_segment
from dsm.segment.pages import PageRuns
from dsm.segment.region import RegionReader
from dsm.segment.region_shadow import RegionShadow
from dsm.segment.region_writer import RegionWriter
from dsm.segment.ring import RingReader
from dsm.segment.ring_shadow import RingShadow
from dsm.segment.ring_writer import RingWriter
from dsm.segment.run_check import split_run
from dsm.segment.shadowing import create_region_shadow, create_ring_shadow, open_shadow
from dsm.segment.snapshot import RegionSnapshot

__all__ = [
    "Bell",
    "Block",
    "BlockRun",
    "PageRuns",
    "RegionReader",
    "RegionShadow",
    "RegionSnapshot",
    "RegionWriter",
    "RingCursor",
    "RingReader",
    "RingShadow",
    "RingWriter",
    "create_region",
    "create_region_shadow",
    "create_ring",
    "create_ring_shadow",
    "delete_segment",
    "list_names",
    "name_of",
    "open_region",
    "open_ring",
    "open_segment",
    "open_shadow",
    "path_of",
    "split_run",
]
