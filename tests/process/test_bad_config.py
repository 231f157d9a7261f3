"""Configuration files, environment and options: what they mean, and one clear line with exit code
64 for what they cannot mean."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cluster import ANY_PORT, Cluster
from conftest import ROOT
from damage import router_options, stage_options

NOBODY = "tcp://127.0.0.1:1"
ACTORS = {"router": "chatloop-router", "stage": "chatloop-stage", "sampler": "chatloop-sampler"}


def stage_yaml(model: Path) -> str:
    return (f"model: {{path: {model}, partition: 0}}\nworker: {{worker_id: s}}\n"
            f"bus: {{listen: '{ANY_PORT}', routers: ['{NOBODY}']}}\n")


@pytest.fixture
def check(build, tmp_path):
    """Runs an actor with --check over a file of this text; (exit code, stdout, stderr). What the
    tests' environment says of metrics would go before the file."""
    inherited = {name: text for name, text in os.environ.items()
                 if name != "CHATLOOP_METRICS_BIND"}

    def run(role: str, text: str | bytes, *options: object, **environment: str):
        file = tmp_path / f"{role}.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        command = [build / "actors" / ACTORS[role], "--config", file, "--check", *options]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                              timeout=20, stdin=subprocess.DEVNULL,
                              env={**inherited, **environment})
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def refused(check):
    def run(role: str, text: str | bytes, *options: object, **environment: str) -> str:
        code, out, said = check(role, text, *options, **environment)
        assert code == 64 and out == "", (code, out, said)
        assert said.count("\n") == 1 and said.startswith(f"{ACTORS[role]}: ") and len(said) < 500
        return said

    return run


@pytest.mark.parametrize("text", ["a: b: c", "[1, 2]", "- x", "a: [", b"\xff\xfe\x00\x01",
                                  "x: 1\n---\ny: 2", "[" * 10000, " " * 70000, "&a [*a]"],
                         ids=range(9))
def test_a_file_that_is_not_yaml_or_no_mapping(refused, text):
    assert "router.yaml" in refused("router", text)


def test_no_file(refusal):
    assert "nowhere.yaml" in refusal("chatloop-router", "--config", "nowhere.yaml")


@pytest.mark.parametrize("role, text, hint", [
    ("stage", "\nperformance:\n  kv_cahce_mb: 5\n", "stage.yaml:3: performance.kv_cahce_mb is not "
     "known: did you mean performance.kv_cache_mb?"),
    ("router", "batching:\n  max_bach_size: 5\n", "router.yaml:2: batching.max_bach_size is not "
     "known: did you mean batching.max_batch_size?"),
    ("sampler", "kernels: auto", "did you mean performance.kernels?"),
    ("stage", "grpc:\n  compression: gzip\n", "bus.listen"),
    ("stage", "worker:\n  batching: {max_batch_size: 32}\n", "router.yaml"),
    ("router", "bus: {listen: x}", "belongs in a stage's file"),
], ids=["stage", "router", "section", "grpc", "batching", "role"])
def test_unknown_keys(refused, role, text, hint):
    assert hint in refused(role, text)


@pytest.mark.parametrize("role, text, hint", [
    ("router", "batching: {max_batch_size: 0}", "an integer from 1 to 256"),
    ("router", "batching: {max_queue_size: -1}", "an integer from 1 to"),
    ("router", "failure_threshold: 1.5", "an integer from 2 to 1000"),
    ("router", "health_check_interval_secs: 0", "a number from 0.01 to 60"),
    ("router", "drain_timeout_secs: nan", "a number from 0 to 3600"),
    ("stage", "performance: {kv_cache_mb: 1e99}", "an integer from 1 to"),
    ("stage", "performance: {max_sequences: 99999}", "an integer from 1 to 4096"),
    ("stage", "model: {partition: -5}", "an integer from 0 to"),
    ("sampler", "performance: {kernels: sse9}", "auto|avx512vnni|avx512|avx2|reference"),
], ids=str)
def test_impossible_ranges(refused, role, text, hint):
    assert hint in refused(role, text)


@pytest.mark.parametrize("cores, hint", [
    ("4000", "there is no CPU 4000"), ("0-4000", "there is no CPU"), ("3-1", "no list of CPUs"),
    ("a", "no list of CPUs"), ("99999", "no list of CPUs"),
])
def test_a_core_list_that_does_not_exist(refused, tiny_model, cores, hint):
    text = f"{stage_yaml(tiny_model)}"
    said = refused("stage", text, "--cpu-cores", cores)
    assert hint in said and "--cpu-cores" in said
    said = refused("router", f"worker:\n  cpu_cores: '{cores}'\nmodel: {{path: {tiny_model}}}")
    assert hint in said and "router.yaml:2: worker.cpu_cores" in said
    said = refused("stage", text, "--io-cpu-cores", cores)
    assert hint in said and "--io-cpu-cores" in said
    assert "cpu_cores" in refused("stage", text, "--enable-cpu-pinning")


@pytest.mark.parametrize("layers, hint", [
    ("{start_layer: 0, end_layer: 1}", "drop one of the two"),
    ("{start_layer: 0}", "give both"), ("{end_layer: 2}", "give both"),
    ("{start_layer: 3, end_layer: 2}", "within 0:4"), ("{start_layer: 0, end_layer: 5}", "0:4"),
])
def test_a_layer_group_that_the_model_does_not_have(refused, tiny_model, layers, hint):
    text = stage_yaml(tiny_model).replace("worker_id: s", f"worker_id: s, layer_group: {layers}")
    assert hint in refused("stage", text)


def test_weights_that_are_not_the_role_s(refused, tiny_model):
    def text(file: str) -> str:
        return (f"worker: {{worker_id: s, weights_path: {tiny_model}/{file}}}\n"
                f"bus: {{listen: '{ANY_PORT}'}}\n")

    assert "partition_9" in refused("stage", text("partition_9.safetensors"))
    assert "is not partition 1" in refused("stage", text("partition_0.safetensors"),
                                           "--partition", 1)
    assert "partition_head" in refused("sampler", text("partition_0.safetensors"))
    assert "model.path" in refused("stage", text("partition_0.safetensors"), "--model", "/")


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 65])
def test_names_that_are_none(refused, tiny_model, name):
    refused("stage", stage_yaml(tiny_model), "--name", name)


def test_what_is_missing_is_asked_for(refused, tiny_model):
    assert "CHATLOOP_MODEL_PATH" in refused("router", "")
    assert "CHATLOOP_WORKER_ID" in refused("stage", f"model: {{path: {tiny_model}}}")


def test_an_address_that_is_none(refused, tiny_model):
    assert "nonsense" in refused("stage", stage_yaml(tiny_model), "--listen", "nonsense")
    assert "nonsense" in refused("stage", stage_yaml(tiny_model), "--router", "nonsense")
    assert "host.local" in refused("router", f"model: {{path: {tiny_model}}}",
                                   "--front", "tcp://host.local:7101")


ROUTER_ADDRESSES = ("bus: {ctrl: 'tcp://127.0.0.1:7400', front: 'tcp://127.0.0.1:7401', "
                    "result: 'tcp://127.0.0.1:7402'}\n")
HOST_OF_NOBODY = "192.0.2.77"  # of documentation (RFC 5737)


@pytest.mark.parametrize("lines, hint", [
    ("http: {bind: 'host.local:80'}", "router.yaml:3: http.bind: 'host.local:80' is not"),
    ("http: {bind: '127.0.0.1'}", "router.yaml:3: http.bind: '127.0.0.1' is not ADDRESS:PORT"),
    ("http: {bind: '127.0.0.1:70000'}", "router.yaml:3: http.bind: "),
    ("metrics: {bind: ':9091'}", "router.yaml:3: metrics.bind: ':9091' is not ADDRESS:PORT"),
    ("observability: {exporter: '127.0.0.1:7103'}", "router.yaml:3: observability.exporter: "),
    ("observability: {otel_endpoint: 'jaeger:4317'}",
     "router.yaml:3: observability.otel_endpoint: 'jaeger:4317' is no URL"),
    ("http: {bind: '127.0.0.1:7401'}",
     "router.yaml:3: http.bind: 127.0.0.1:7401 is the address of router.yaml:2: bus.front, too"),
    ("metrics: {bind: '0.0.0.0:7400'}", "router.yaml:3: metrics.bind: 0.0.0.0:7400 is the address "
     "of router.yaml:2: bus.ctrl, too"),
    ("http: {bind: '[::]:7402'}", "is the address of router.yaml:2: bus.result, too"),
    (f"http: {{bind: '{HOST_OF_NOBODY}:8080'}}",
     f"router.yaml:3: http.bind: {HOST_OF_NOBODY}:8080 is no address of this host"),
    ("http: {bind: '[2001:db8::7]:8080'}", "is no address of this host"),
    ("http: {bind: '127.0.0.1:8080', api_keys_file: /no/such/keys}",
     "router.yaml:3: http.api_keys_file: /no/such/keys: no file with a key a line"),
], ids=str)
def test_a_router_s_addresses_are_checked(refused, tiny_model, lines, hint):
    said = refused("router", f"model: {{path: {tiny_model}}}\n{ROUTER_ADDRESSES}{lines}\n")
    assert hint in said.replace(said.split()[1].rpartition("/")[0] + "/", "")


@pytest.mark.parametrize("lines, hint", [
    ("bus: {listen: 'tcp://a.b:1'}", "stage.yaml:3: bus.listen: endpoint 'tcp://a.b:1' is neither"),
    ("bus: {listen: 'tcp://127.0.0.1:99999'}", "stage.yaml:3: bus.listen: "),
    ("bus: {listen: 'tcp://127.0.0.1:7300', routers: [tcp://router:7100]}",
     "stage.yaml:3: bus.routers: endpoint 'tcp://router:7100' is neither"),
    ("bus: {listen: 'tcp://127.0.0.1:7300', routers: ['tcp://127.0.0.1:*']}", "bus.routers: "),
    ("bus: {listen: 'tcp://127.0.0.1:7300'}\nmetrics: {bind: '127.0.0.1:7300'}",
     "stage.yaml:4: metrics.bind: 127.0.0.1:7300 is the address of stage.yaml:3: bus.listen, too"),
    (f"bus: {{listen: 'tcp://{HOST_OF_NOBODY}:7300'}}",
     f"stage.yaml:3: bus.listen: tcp://{HOST_OF_NOBODY}:7300 is no address of this host"),
], ids=str)
def test_a_stage_s_addresses_are_checked(refused, tiny_model, lines, hint):
    said = refused("stage", f"model: {{path: {tiny_model}, partition: 0}}\n"
                            f"worker: {{worker_id: s}}\n{lines}\n")
    assert hint in said.replace(said.split()[1].rpartition("/")[0] + "/", "")


def test_a_hosted_router_s_addresses_are_checked_with_the_stage_s(refused, tiny_model, tmp_path):
    router = tmp_path / "hosted.yaml"
    router.write_text(ROUTER_ADDRESSES)
    text = stage_yaml(tiny_model).replace("worker_id: s", f"worker_id: s, with_router: {router}")
    text = text.replace(ANY_PORT, "tcp://127.0.0.1:7401")
    said = refused("stage", text)
    assert "hosted.yaml:1: bus.front: tcp://127.0.0.1:7401 is the address of " in said
    assert "stage.yaml:3: bus.listen, too" in said
    text = stage_yaml(tiny_model).replace("worker_id: s", "worker_id: s, with_router: /no/such")
    assert "stage.yaml:2: worker.with_router: /no/such: there is no such file" in refused(
        "stage", text)


@pytest.mark.parametrize("is_hosted", [False, True], ids=["router", "hosted"])
def test_a_journal_that_cannot_be_is_found_by_a_check(refused, tiny_model, tmp_path, is_hosted):
    lines = "http: {bind: '127.0.0.1:*', journal_dir: /dev/null/journal}\n"
    if is_hosted:
        router = tmp_path / "hosted.yaml"
        router.write_text(lines)
        said = refused("stage", stage_yaml(tiny_model).replace(
            "worker_id: s", f"worker_id: s, with_router: {router}"))
    else:
        said = refused("router", f"model: {{path: {tiny_model}}}\n{lines}")
    assert "http.journal_dir /dev/null/journal: cannot be used: Not a directory" in said


def test_addresses_that_are_fine(check, tiny_model):
    """Any port may be given often; 127.0.0.2 is this machine, though no interface lists it."""
    lines = ("bus: {ctrl: 'tcp://127.0.0.1:*', front: 'tcp://*:*', result: 'tcp://127.0.0.2:*'}\n"
             "http: {bind: '[::1]:0'}\nmetrics: {bind: 'http://127.0.0.2:7400'}\n"
             "observability: {otel_endpoint: 'grpc://jaeger.elsewhere:4317'}\n")
    code, out, said = check("router", f"model: {{path: {tiny_model}}}\n{lines}")
    assert (code, said) == (0, "") and "all is well" in out


@pytest.mark.parametrize("role, line, key", [
    ("router", "model: {path: /no/such}", "router.yaml:1: model.path"),
    ("stage", "model: {path: /no/such, partition: 0}", "stage.yaml:1: model.path"),
    ("stage", "model: {path: /dev/null, partition: 0}", "stage.yaml:1: model.path"),
    ("sampler", "worker: {weights_path: /no/such/file}", "sampler.yaml:1: worker.weights_path"),
    ("stage", "model: {path: TINY, partition: 7}", "stage.yaml:1: model.partition: must lie in"),
    ("stage", "worker: {weights_path: TINY/x}", "stage.yaml:1: worker.weights_path: x is no"),
    ("sampler", "worker: {weights_path: TINY/x}", "sampler.yaml:1: worker.weights_path: a sampler"),
], ids=str)
def test_paths_that_lead_nowhere(refused, tiny_model, role, line, key):
    rest = "" if role == "router" else f"bus: {{listen: '{ANY_PORT}'}}\n"
    said = refused(role, f"{line}\n{rest}".replace("TINY", str(tiny_model)),
                   *([] if role == "router" else ["--name", "s"]))
    assert key in said.replace(said.split()[1].rpartition("/")[0] + "/", "")


@pytest.mark.parametrize("program", [*ACTORS.values(), "chatloop-cpud"])
def test_the_version(build, program):
    done = subprocess.run([build / "actors" / program, "--version"], capture_output=True,
                          text=True, timeout=20, stdin=subprocess.DEVNULL, check=True)
    version = (ROOT / "python/chatloop/VERSION").read_text().strip()
    assert (done.stdout, done.stderr) == (f"{program} {version}\n", "")


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:7999", "tcp://*:7999"])
def test_an_address_that_peers_cannot_connect_to(refused, tiny_model, address):
    """--check refuses what a start would refuse."""
    assert "is no address that peers" in refused("stage", stage_yaml(tiny_model), "--listen",
                                                 address)
    assert "is no address that peers" in refused("router", f"model: {{path: {tiny_model}}}",
                                                 "--result", address)


def test_a_router_that_is_named_twice(refused, tiny_model):
    text = stage_yaml(tiny_model).replace(f"'{NOBODY}'", f"'{NOBODY}', '{NOBODY}'")
    said = refused("stage", text)
    assert "stage.yaml:3: bus.routers: " in said and "is given twice" in said
    again = ["--router", NOBODY, "--router", "tcp://127.0.0.1:2", "--router", NOBODY]
    assert "--router: " in refused("stage", stage_yaml(tiny_model), *again)


@pytest.mark.parametrize("layers", ["4294967296:2", "0:4294967298", "0:", ":2", "0:2x", "0,2"])
def test_layers_that_are_no_range(refused, tiny_model, layers):
    text = stage_yaml(tiny_model).replace(", partition: 0", "")
    assert "--layers" in refused("stage", text, "--layers", layers)


def test_check_says_that_all_is_well_and_starts_nothing(check, tiny_model):
    for role, text in [("stage", stage_yaml(tiny_model)),
                       ("router", f"model: {{path: {tiny_model}}}\n"),
                       ("sampler", stage_yaml(tiny_model).replace(", partition: 0", ""))]:
        code, out, said = check(role, text)
        assert (code, said) == (0, "") and "all is well" in out and out.count("\n") == 1


@pytest.mark.parametrize("role", ACTORS)
def test_the_examples_are_the_defaults(check, tiny_model, role):
    text = (ROOT / "configs" / f"{role}.yaml").read_text()
    code, out, said = check(role, text, "--model", tiny_model)
    assert (code, said) == (0, "") and "all is well" in out


def test_what_has_no_effect_is_said(check, tiny_model):
    text = stage_yaml(tiny_model) + "observability: {otel_endpoint: 'http://jaeger:4317'}\n"
    code, _, said = check("stage", text)
    assert code == 0 and "stage.yaml:4: observability.otel_endpoint has no effect here" in said
    code, _, said = check("router", f"model: {{path: {tiny_model}}}\n"
                                    "health_check_interval_secs: 10\nfailure_threshold: 5\n")
    assert code == 0 and "after 50 s" in said


def test_the_file_s_settings_arrive(build, tiny_model, tmp_path):
    """A cluster from three files; environment and options override what they say."""
    stage = tmp_path / "stage.yaml"
    stage.write_text(
        "worker:\n  worker_id: from-the-file\n"
        f"  weights_path: {tiny_model}/partition_0.safetensors\n"
        "  layer_group: {start_layer: 0, end_layer: 2}\n"
        "  enable_cpu_pinning: true\n  cpu_cores: '0'\n"
        "performance: {enable_simd: false, kv_cache_mb: 8, max_sequences: 4}\n")
    last = tmp_path / "last.yaml"
    last.write_text(f"model: {{path: {tiny_model}, partition: 1}}\n"
                    "worker: {with_sampler: true}\n")
    with Cluster(build, tiny_model, tmp_path / "plain") as plain:
        expected = plain.client().generate(token_ids=[2, 3], max_tokens=20, seed=1,
                                           temperature=0.9, ignore_eos=True).token_ids
        plain.stop()
    with Cluster(build, tiny_model, tmp_path / "cluster", stage_of={
            0: ["--config", stage], 1: ["--config", last]}) as cluster:
        # Cluster gives --name, --model and --partition: they go before the files.
        workers = {w["name"]: w for w in cluster.client().status()["workers"]}
        assert workers["stage-0"]["kernels"] == "reference"
        assert workers["stage-1"]["kernels"] != "reference"
        pid = cluster.processes["stage-0"].pid
        assert os.sched_getaffinity(pid) == {0}
        assert os.sched_getaffinity(cluster.processes["stage-1"].pid) == os.sched_getaffinity(0)
        assert cluster.client().generate(token_ids=[2, 3], max_tokens=20, seed=1, temperature=0.9,
                                         ignore_eos=True).token_ids == expected
        cluster.stop()


def test_a_worker_from_its_file_alone(build, tiny_model, tmp_path):
    file = tmp_path / "stage.yaml"
    file.write_text(stage_yaml(tiny_model))
    command = [build / "actors" / "chatloop-stage", "--config", file]
    environment = {**os.environ, "CHATLOOP_WORKER_ID": "from-the-environment"}
    with (tmp_path / "log").open("w+b") as log:
        worker = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                  stderr=log, env=environment)
        try:
            while b"listens at" not in (text := (tmp_path / "log").read_bytes()):
                assert worker.poll() is None, text
        finally:
            worker.terminate()
            assert worker.wait(20) == 0
    assert b"from-the-environment listens at" in text


def test_options_of_the_command_line_stay(refusal, tiny_model):
    """The same checks hold without any file."""
    assert "--kv-cache-mb" in refusal("chatloop-stage", *stage_options(tiny_model),
                                      "--kv-cache-mb", 0)
    assert "given twice" in refusal("chatloop-router", *router_options(tiny_model),
                                    "--max-batch-size", 1, "--max-batch-size", 2)
