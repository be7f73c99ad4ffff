"""A node of another protocol: a clear error, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from dsm_client import connect

from dsm.errors import ProtocolMismatch
from dsm.wire.protocol import HELLO
from dsm.wire.v1 import wire_pb2 as pb


@pytest.fixture(params=["chooses 99", "refuses"])
def later_node(request: pytest.FixtureRequest) -> Iterator[str]:
    def hello(message: pb.HelloRequest, context: Any) -> pb.HelloReply:
        if request.param == "refuses":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "speaks protocol 7 to 9")
        return pb.HelloReply(version=99)

    handler = grpc.unary_unary_rpc_method_handler(
        hello, pb.HelloRequest.FromString, pb.HelloReply.SerializeToString
    )
    _, service, method = HELLO.split("/")
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_a_node_of_a_later_protocol_is_refused(later_node: str, cache: Path) -> None:
    with pytest.raises(ProtocolMismatch, match=r"protocol (99|7 to 9)"):
        connect(f"dsm://{later_node}", retry_s=5, cache=str(cache))
