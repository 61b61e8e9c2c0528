"""How a packaged model is served on this machine. No server framework here."""

from dataclasses import dataclass, field

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

MAX_TEXT_CHARS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Set where the server listens, and what it takes."""

    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on; 0.0.0.0 is the whole network."},
    )
    http_port: int = field(default=8000, metadata={"help": "Port for HTTP."})
    grpc_port: int = field(default=8001, metadata={"help": "Port for gRPC."})
    metrics_port: int = field(
        default=8002, metadata={"help": "Port for Prometheus metrics, at /metrics."}
    )
    num_workers: int = field(
        default=1,
        metadata={
            "help": "Number of processes that run the model. A process that dies is started again."
        },
    )
    num_threads: int = field(
        default=0, metadata={"help": "Threads per worker process; 0: all processors."}
    )
    max_body_bytes: int = field(
        default=8 * 2**20, metadata={"help": "Largest request body in bytes."}
    )
    max_waiting: int = field(
        default=256,
        metadata={
            "help": "Largest number of requests in work at once; further ones are answered with "
            "503."
        },
    )
    max_tokens: int = field(
        default=16_384,
        metadata={"help": "Largest number of tokens per request (rows times their length)."},
    )
    max_text_chars: int = field(
        default=MAX_TEXT_CHARS,
        metadata={"help": "Largest number of characters of a text that the server tokenizes."},
    )
    max_connections: int = field(
        default=512,
        metadata={
            "help": "Largest number of open connections, of HTTP and of gRPC; the oldest idle ones "
            "of HTTP are closed for new ones."
        },
    )
    header_seconds: int = field(
        default=10,
        metadata={
            "help": "Time limit for the headers of an HTTP request and for gRPC's handshake, in "
            "seconds."
        },
    )
    request_seconds: int = field(
        default=60, metadata={"help": "Time limit for a request, in seconds, including its wait."}
    )
    drain_seconds: int = field(
        default=30,
        metadata={"help": "Time for open requests after the server is told to stop, in seconds."},
    )

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
