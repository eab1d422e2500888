"""Runs without start-up: a process that has everything imported forks one for every run.

The layer above says which program to run: the server knows it by the name of its module.

Each run still is a process of its own, with its session, environment, output and exit status. It
shares the server's memory, including the frozen backbone, until one of them writes to it. The
server itself never touches CUDA, and computes on one thread: neither survives a fork.

The two sides talk over a socket: the client sends what to run; the server sends process ids and
exit statuses. If the client is gone, however it ended, the server kills every run and ends. If the
server is killed, the kernel kills its runs.

Neither multiprocessing's forkserver nor loky can do this. They run no code in their servers between
two forks, so runs would not share a backbone. They give a run no session or output of its own, and
do not end it with a killed client. Loky's processes carry out one task after another.
"""

import contextlib
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypedDict, TypeVar

from nerp.base.python import end_with_parent, module_command

Program = str | Sequence[str]

KILLED = -signal.SIGKILL


class Request(TypedDict):
    """What the client asks for: a run."""

    program: Program
    argv: list[str]
    environment: dict[str, str]


class Reply(TypedDict, total=False):
    """The server's message: the process id of a run that has started; or of one that has ended,
    with its exit status."""

    started: int
    ended: int
    status: int


Received = TypeVar("Received", Request, Reply)


class Server:
    """The client's side. It starts the server when first needed, and again if it was killed.

    Args:
        program: a module, imported once and forked for every run; it has `prepare(argv)`, called
            in the server before each run, and `run(argv)`, whose value is the run's exit status.
            Or a command line, which starts a new process for each run.
    """

    def __init__(self, program: Program):
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: _Lines[Reply] | None = None
        self._starting: Child | None = None
        self._running: dict[int, Child] = {}

    def start(
        self, argv: Sequence[str], output: int | None, environment: Mapping[str, str]
    ) -> "Child":
        """Begin a run.

        Args:
            argv: the program's arguments.
            output: a file descriptor for the run's output, which the run keeps open; None: this
                process's own standard output.
            environment: the variables that differ from this process's.
        """
        message: Request = {
            "program": self.program, "argv": list(argv), "environment": dict(environment),
        }
        child = Child(self, message, (1, 2) if output is None else (output, output))
        self.begin(child)
        return child

    def begin(self, child: "Child") -> None:
        """Have a run started. If that kills the server, the server is started again, once; if it
        is killed again, the run counts as killed."""
        while True:
            self._listen(0)
            if self._lines is None:
                self._open()
            assert self._lines is not None
            self._starting = child
            with contextlib.suppress(ConnectionError):  # the next message notices it too
                self._lines.send(child.message, child.descriptors)
            while self._starting is not None and self._lines is not None:
                self._listen(None)
            if self._starting is None:
                return
            if child.again:
                child.status = KILLED
                return
            child.again = True

    def _open(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A session of its own: a Ctrl-C at the terminal does not reach it.
            self._process = subprocess.Popen(
                [*module_command(__name__), str(theirs.fileno())],
                pass_fds=[theirs.fileno()], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )
        self._lines = _Lines(ours)

    def _listen(self, seconds: float | None) -> None:
        """Read the server's messages, waiting for at most `seconds`."""
        if self._lines is None or not select.select([self._lines.socket], [], [], seconds)[0]:
            return
        try:
            messages, open_ = self._lines.receive()
        except ConnectionError:
            messages, open_ = [], False
        for message in messages:
            if "started" in message:
                assert self._starting is not None
                self._starting.pid = message["started"]
                self._running[self._starting.pid] = self._starting
                self._starting = None
            else:
                self._running.pop(message["ended"]).status = message["status"]
        if not open_:
            lost = list(self._running.values())
            self.close()
            for child in lost:
                child.lost = True

    def close(self) -> None:
        """End the server and all runs under way."""
        if self._lines is None:
            return
        self._lines.socket.close()
        self._lines = None
        assert self._process is not None
        self._process.wait()
        for child in self._running.values():
            child.status = KILLED
        self._running.clear()


class Child:
    """A run under way.

    Attributes:
        pid: the leader of a process group. status: its exit status, -N after signal N; None
            while it runs. lost: whether it was killed with the server; it is then started again,
            once. again: whether it has been started again, or must not be.
    """

    def __init__(self, server: Server, message: Request, descriptors: tuple[int, int]):
        """Args: message, descriptors: sent to the server."""
        self.pid = 0
        self.status: int | None = None
        self.lost = self.again = False
        self.message = message
        self.descriptors = descriptors
        self._server = server

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        if self.status is None:
            self._server._listen(0)
        self._revive()
        return self.status

    def wait(self) -> int:
        """The exit status, once it has ended."""
        while self.status is None:
            self._server._listen(None)
            self._revive()
        return self.status

    def _revive(self) -> None:
        if self.lost and not self.again:
            self.again, self.lost, self.status = True, False, None
            self._server.begin(self)


class _Lines(Generic[Received]):
    """Messages as lines of JSON over a socket; file descriptors may come with a message."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self._rest = b""

    def send(self, message: Request | Reply, descriptors: Sequence[int] = ()) -> None:
        data = json.dumps(message).encode() + b"\n"
        sent = socket.send_fds(self.socket, [data], descriptors) if descriptors else 0
        self.socket.sendall(data[sent:])

    def receive(self, descriptors: list[int] | None = None) -> tuple[list[Received], bool]:
        """The messages that have arrived whole, and whether more can come. Descriptors that came
        with them are added to `descriptors`."""
        data, found, _, _ = socket.recv_fds(self.socket, 2**16, 2)
        if descriptors is not None:
            descriptors.extend(found)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in whole], bool(data)


# The server's side.


def serve(connection: socket.socket) -> Request | None:
    """Fork a process for every request. Returns the request in such a process, and None in the
    server, after its client has gone."""
    server = os.getpid()
    lines: _Lines[Request] = _Lines(connection)
    children: set[int] = set()

    def end(*_: object) -> None:
        if os.getpid() == server:
            _kill(children)
        os._exit(1)

    # The end of the connection has the same effect, but not while everything is being imported.
    on_term = signal.signal(signal.SIGTERM, end)
    end_with_parent(signal.SIGTERM)
    with _child_ends() as ends:
        outputs: list[int] = []
        while True:
            ready, _, _ = select.select([connection.fileno(), ends], [], [])
            if ends in ready:
                os.read(ends, 2**10)
                for pid, status in _ended(children):
                    with contextlib.suppress(BrokenPipeError):
                        lines.send({"ended": pid, "status": status})
            if connection.fileno() not in ready:
                continue
            try:
                requests, open_ = lines.receive(outputs)
            except ConnectionResetError:
                requests, open_ = [], False
            for request in requests:
                if isinstance(request["program"], str):
                    importlib.import_module(request["program"]).prepare(request["argv"])
                sys.stdout.flush()
                pid = os.fork()
                if not pid:
                    signal.signal(signal.SIGTERM, on_term)
                    _leave(server, connection, outputs, request["environment"])
                    return request
                children.add(pid)
                for descriptor in outputs:
                    os.close(descriptor)
                outputs.clear()
                with contextlib.suppress(BrokenPipeError):
                    lines.send({"started": pid})
            if not open_:
                _kill(children)
                return None


@contextlib.contextmanager
def _child_ends() -> Iterator[int]:
    """A descriptor that becomes readable when a child has ended. (In a fork, this is undone.)"""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writable)
    try:
        yield readable
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, before)
        os.close(readable)
        os.close(writable)


def _ended(children: set[int]) -> Iterator[tuple[int, int]]:
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.remove(pid)
            yield pid, os.waitstatus_to_exitcode(status)


def _kill(children: set[int]) -> None:
    """Kill processes, and all processes that they have started."""
    for pid in children:
        for kill in (os.kill, os.killpg):  # a new process may not lead its group yet
            with contextlib.suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)


def _leave(
    server: int, connection: socket.socket, outputs: list[int], environment: dict[str, str]
) -> None:
    """In a fork: stop being part of the server."""
    os.setsid()
    end_with_parent(signal.SIGKILL)
    if os.getppid() != server:  # the server died before
        os.kill(os.getpid(), signal.SIGKILL)
    connection.close()
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
        os.close(output)
    os.environ.update(environment)


def _become(request: Request) -> int:
    """In a fork: carry out the run. Returns its exit status."""
    program, argv = request["program"], request["argv"]
    if not isinstance(program, str):
        os.execvp(program[0], [*program, *argv])
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    sys.argv[1:] = argv
    status: int = importlib.import_module(program).run(argv)
    return status


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as their_end:
        asked = serve(their_end)
    sys.exit(0 if asked is None else _become(asked))
