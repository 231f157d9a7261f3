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

UP = {"router": "listening", "stage": "ready", "sampler": "ready"}  # how the log line begins
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


def is_up(args, role):
    for line in supervise.log_lines(args.run, role):
        try:
            if json.loads(line)["message"].startswith(UP[actor_of(role)]):
                return True
        except (ValueError, KeyError, TypeError):
            continue  # not a line of the log
    return False


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
