"""Asks a router, as a program of its own that may run in another network namespace.

    node_client.py ENDPOINT    requests as lines of JSON in; "begun" and then what came of it out
"""

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
from answers import of_generation  # noqa: E402
from chatloop import ChatLoopError, Client  # noqa: E402

with Client(sys.argv[1], timeout_s=60.0) as client:
    for line in sys.stdin:
        try:
            with client.stream(**json.loads(line)) as stream:
                next(stream)
                print('"begun"', flush=True)
                for _ in stream:
                    pass
            outcome = dataclasses.asdict(of_generation(stream.result))
        except ChatLoopError as error:
            outcome = {"error": error.code, "retryable": error.retryable}
        print(json.dumps(outcome), flush=True)
