"""How a packaged model is served on this machine. No server framework here."""

from dataclasses import dataclass

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

MAX_TEXT_CHARS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Set where the server listens, and what it takes.

        http_port: 8000     # flags of `nirvana serve`: --http-port 8000 --num-workers 2
        num_workers: 2

    Attributes:
        host: Address to listen on; 0.0.0.0 is the whole network.
        http_port: Port for HTTP.
        grpc_port: Port for gRPC.
        metrics_port: Port for Prometheus metrics, at /metrics.
        num_workers: Number of processes that run the model. A process that dies is started again.
        num_threads: Threads per worker process; 0: all processors.
        max_body_bytes: Largest request body in bytes.
        max_waiting: Largest number of requests in work at once; further ones are answered with 503.
        max_tokens: Largest number of tokens per request (rows times their length).
        max_text_chars: Largest number of characters of a text that the server tokenizes.
        max_connections: Largest number of open connections, of HTTP and of gRPC; the oldest idle
            ones of HTTP are closed for new ones.
        header_seconds: Time limit for the headers of an HTTP request and for gRPC's handshake, in
            seconds.
        request_seconds: Time limit for a request, in seconds, including its wait.
        drain_seconds: Time for open requests after the server is told to stop, in seconds.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    num_workers: int = 1
    num_threads: int = 0
    max_body_bytes: int = 8 * 2**20
    max_waiting: int = 256
    max_tokens: int = 16_384
    max_text_chars: int = MAX_TEXT_CHARS
    max_connections: int = 512
    header_seconds: int = 10
    request_seconds: int = 60
    drain_seconds: int = 30

    def __post_init__(self) -> None:
        check_numbers(self)
        ports = (self.http_port, self.grpc_port, self.metrics_port)
        if not all(1 <= port <= 65535 for port in ports) or len(set(ports)) < len(ports):
            raise NirvanaError(
                "http_port, grpc_port and metrics_port must be three ports from 1 to 65535, got "
                f"{', '.join(map(str, ports))}."
            )
        for name, floor in (
            ("num_workers", 1),
            ("num_threads", 0),
            ("max_body_bytes", 1024),
            ("max_waiting", 1),
            ("max_tokens", 1),
            ("max_text_chars", 1),
            ("max_connections", 1),
            ("header_seconds", 1),
            ("request_seconds", 1),
            ("drain_seconds", 0),
        ):
            if getattr(self, name) < floor:
                raise NirvanaError(f"{name} must be {floor} or more, got {getattr(self, name)}.")
