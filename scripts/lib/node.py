"""The actors of one node under a supervisord of their own; scripts/launch_node.sh is its command.

A role is a file of the configuration folder; its name starts with the actor's: stage-0 is run by
chatloop-stage. Errors are the actor's own line, or two lines: the cause and the cure.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time

import supervise
from supervise import REPO, LaunchError

sys.path.insert(0, str(REPO / "python"))
from chatloop import ChatLoopError, Client  # noqa: E402  (of this clone, not of the environment)

UP = {"router": "listening", "stage": "ready", "sampler": "ready"}  # how the log line begins
ROUTE_WAIT_S = 10.0  # workers that are up form a route within a moment
ROUTE_GLANCE_S = 2.0  # the same, where another node may have to bring what is missing
LEVEL_VARIABLE = "CHATLOOP_OBSERVABILITY_LOG_LEVEL"


def actor_of(role):
    return next(actor for actor in UP if role.startswith(actor))


def config_file(args, role):
    return args.config / f"{role}.yaml"


def check(programs, shown):
    """The exit code of the first actor that refuses its files, or 0."""
    for _, command in programs:
        done = subprocess.run([*command, "--check"], capture_output=True, text=True, cwd=REPO)
        if shown or done.returncode != 0:
            print(done.stdout, end="")
            print(done.stderr, end="", file=sys.stderr)
        if done.returncode != 0:
            return done.returncode
    return 0


def says_when_up(args, role):
    """False when its log level hides the line: then it counts as up as long as it runs."""
    file = config_file(args, role).read_text()
    level = re.search(r"^[^#]*\blog_level:\s*[\"']?(\w+)", file, re.MULTILINE)
    return os.environ.get(LEVEL_VARIABLE, level[1] if level else "") not in ("warn", "error")


def messages(args, role):
    """Of its log."""
    for line in supervise.log_lines(args.run, role):
        try:
            yield str(json.loads(line)["message"])
        except (ValueError, KeyError, TypeError):
            continue  # not a line of the log


def is_up(args, role):
    return any(text.startswith(UP[actor_of(role)]) for text in messages(args, role))


def wait_until_up(args):
    """The roles that are not up when the time has passed."""
    deadline = time.monotonic() + args.wait
    waited_for = [role for role in args.roles if says_when_up(args, role)]
    while missing := [role for role in waited_for if not is_up(args, role)]:
        supervise.check_running(args.run)
        if time.monotonic() > deadline:
            return missing
        time.sleep(0.05)
    supervise.check_running(args.run)
    return []


def front_of(args):
    """Where a router of this node, which may be a stage's guest, serves clients; None: no router,
    or one that does not say."""
    for role in args.roles:
        for text in messages(args, role):
            if found := re.match(r"listening: .*\bfront (tcp://[^\s,]+)", text):
                return found[1].replace("//0.0.0.0:", "//127.0.0.1:")
    return None


def why_no_route(args, front):
    """What the router says that its route lacks, after it had time to form one; "" with a route."""
    deadline = time.monotonic() + (ROUTE_WAIT_S if is_whole(args) else ROUTE_GLANCE_S)
    with Client(front, timeout_s=1.0, connect_timeout_s=1.0) as client:
        while True:
            supervise.check_running(args.run)
            try:
                status = client.status()
                why = "" if status["ready"] else status.get("no_route", "no reason is known")
            except ChatLoopError as error:
                why = str(error)
            if not why or time.monotonic() > deadline:
                return why
            time.sleep(0.1)


def is_whole(args):
    """Whether this launch has every role of the folder: no other node has one to add."""
    roles = {file.stem for file in args.config.glob("*.yaml") if file.stem.startswith((*UP,))}
    return roles <= set(args.roles)


def report_route(args):
    """Says when nothing can be answered (yet). Raises when no other node can change that."""
    front = front_of(args)
    why = why_no_route(args, front) if front else ""
    if not why:
        return
    if is_whole(args):
        raise LaunchError(
            f"no request can be answered, there is no route: {why}",
            f"No file of {args.config} starts what is missing. What runs goes on; scripts/stop.sh "
            f"--run {args.run} ends it.",
        )
    print(f"no route yet: {why}")


def launch(args):
    if args.model:
        os.environ["CHATLOOP_MODEL_PATH"] = str(args.model)
    programs = [
        (role, [supervise.binary(args.build, actor_of(role)), "--config", config_file(args, role)])
        for role in args.roles
    ]
    refused = check(programs, shown=args.check)
    if args.check or refused:
        return refused
    if args.foreground:
        supervise.become(args.run, programs)
    with supervise.starting(args.run, programs):
        missing = wait_until_up(args)
    pids = {info["name"]: info["pid"] for info in supervise.rpc(args.run).getAllProcessInfo()}
    for role in args.roles:
        state = UP[actor_of(role)] if says_when_up(args, role) else "started"
        if role in missing:
            state = "not up yet"
        print(f"{role:12} {state:10} pid {pids[role]:<8} {supervise.log_path(args.run, role)}")
    if missing:
        raise LaunchError(
            f"not up after {args.wait:g} s: {', '.join(missing)}",
            f"They go on loading; scripts/stop.sh --run {args.run} ends them.",
        )
    report_route(args)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("config", "build", "run"):
        parser.add_argument(f"--{name}", type=supervise.folder, required=True)
    parser.add_argument("--model", type=supervise.folder)
    parser.add_argument("--wait", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--foreground", action="store_true")
    parser.add_argument("roles", nargs="+", metavar="ROLE")
    return supervise.main_of(launch, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
