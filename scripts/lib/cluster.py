"""The quickstart's cluster on this machine: a router, a stage per partition, the last samples.

    cluster.py --build DIR --model DIR --run DIR    starts under supervisord, waits until ready

supervise.py stops it and shows its state. Errors are two lines: the cause and the cure.
"""

import argparse
import json
import socket
import sys
import time

import supervise
from supervise import REPO, LaunchError

sys.path.insert(0, str(REPO / "python"))
from chatloop import ChatLoopError, Client  # noqa: E402  (of this clone, not of the environment)

HOST = "127.0.0.1"
ROUTER = "router-0"
PORT_BASE = 7100  # ctrl; then front, result, and the stages from STAGE_OFFSET
FRONT_OFFSET, RESULT_OFFSET, HTTP_OFFSET = 1, 2, 4  # 3: traces
STAGE_OFFSET, METRICS_OFFSET = 100, 200
HTTP_PORT = 8080  # of a cluster at PORT_BASE, when it is free
METRICS_PORT = 9091  # of its router, then of the stages, when all of them are free
PARTITIONS_MAX = 64
READY_TIMEOUT_S = 120.0


def endpoint(port):
    return f"tcp://{HOST}:{port}"


def is_free(port):
    with socket.socket() as probe:
        # As libzmq binds: a connection in TIME_WAIT is no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def http_port(base):
    return HTTP_PORT if base == PORT_BASE and is_free(HTTP_PORT) else base + HTTP_OFFSET


def metrics_ports(base, count):
    """One for each process, in the order of the hops."""
    known = range(METRICS_PORT, METRICS_PORT + count)
    if base == PORT_BASE and all(map(is_free, known)):
        return known
    return range(base + METRICS_OFFSET, base + METRICS_OFFSET + count)


def partition_count(model):
    path = model / "partition_metadata.json"
    try:
        return len(json.loads(path.read_text())["partitions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LaunchError(
            f"{path} is not a model's metadata: {error}",
            "Split the model with python/model_splitter/split_model.py.",
        ) from error


def processes(build, model, base, http):
    """[(name, argument list, ports it binds)], in the order of the hops. Metrics come last."""
    stages = partition_count(model)
    if stages > PARTITIONS_MAX:
        raise LaunchError(
            f"{stages} partitions are more than a local cluster's {PARTITIONS_MAX}",
            "Choose fewer with --partitions.",
        )
    metrics, *stage_metrics = metrics_ports(base, 1 + stages)
    router = [
        supervise.binary(build, "router"), "--model", model, "--name", ROUTER,
        "--ctrl", endpoint(base), "--front", endpoint(base + FRONT_OFFSET),
        "--result", endpoint(base + RESULT_OFFSET), "--http", f"{HOST}:{http}",
        "--metrics", f"{HOST}:{metrics}",
    ]
    result = [(ROUTER, router,
               [base, base + FRONT_OFFSET, base + RESULT_OFFSET, http, metrics])]
    for k, metrics in enumerate(stage_metrics):
        port = base + STAGE_OFFSET + k
        stage = [
            supervise.binary(build, "stage"), "--model", model, "--partition", k,
            "--name", f"stage-{k}", "--listen", endpoint(port), "--router", endpoint(base),
            "--metrics", f"{HOST}:{metrics}",
        ]
        if k == stages - 1:
            stage.append("--with-sampler")
        result.append((f"stage-{k}", stage, [port, metrics]))
    return result


def check_ports_free(ports):
    for port in ports:
        if not is_free(port):
            raise LaunchError(
                f"port {port} on {HOST} is in use",
                "If another clone's ChatLoop cluster has it, run scripts/stop.sh there"
                f"; else end the program that `ss -ltnp 'sport = :{port}'` names.",
            )


def wait_until_ready(run, front_port):
    """Returns when the router has a route on which every process answered."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    seen = "no answer of the router"
    with Client(endpoint(front_port), timeout_s=1.0, connect_timeout_s=1.0) as client:
        while time.monotonic() < deadline:
            supervise.check_running(run)
            try:
                status = client.status()
            except ChatLoopError as error:
                seen = str(error)
            else:
                if status["ready"]:
                    return
                seen = f"the router says: {status.get('no_route', 'no route')}"
            time.sleep(0.05)
    raise LaunchError(f"not ready after {READY_TIMEOUT_S:.0f} s; {seen}", f"Logs: {run / 'log'}")


def start(args):
    supervise.check_stopped(args.run)  # before its ports are found in use
    http = http_port(args.port_base)
    started = processes(args.build, args.model, args.port_base, http)
    check_ports_free(port for _, _, ports in started for port in ports)
    with supervise.starting(args.run, [(name, command) for name, command, _ in started]):
        wait_until_ready(args.run, args.port_base + FRONT_OFFSET)
        (args.run / "http").write_text(f"http://{HOST}:{http}\n")
        pages = [f"http://{HOST}:{ports[-1]}/metrics\n" for _, _, ports in started]
        (args.run / "metrics").write_text("".join(pages))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("build", "model", "run"):
        parser.add_argument(f"--{name}", type=supervise.folder, required=True)
    parser.add_argument("--port-base", type=int, default=PORT_BASE)
    return supervise.main_of(start, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
