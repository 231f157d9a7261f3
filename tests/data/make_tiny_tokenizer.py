"""Writes tests/data/tiny_tokenizer: a byte-level BPE with a few merges, three special tokens and
one added token that is not special. Run it only to change the tokenizer; its output is committed.
"""
import json
from pathlib import Path

from jinja2 import Environment
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = """The user asks and the assistant answers. The system says what the assistant is.
Hello, world! This is a small text from which a small vocabulary is trained: hello hello world.
What is the sea? The sea is the water that the rivers reach; the rivers are what the rain becomes.
"""
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=400,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    show_progress=False,
)
tokenizer.train_from_iterator([TEXT], trainer)
tokenizer.add_tokens([AddedToken("<think>", normalized=False, special=False)])

folder = Path(__file__).parent / "tiny_tokenizer"
folder.mkdir(exist_ok=True)
tokenizer.save(str(folder / "tokenizer.json"))
config = {"chat_template": TEMPLATE, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
(folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")

# The rendering and the ids of whole chats as Hugging Face computes them.
environment = Environment(trim_blocks=True, lstrip_blocks=True)
chats = [
    [("user", "Hello, world!")],
    [
        ("system", "The system says."),
        ("user", " trimmed \n"),
        ("assistant", "ok"),
        ("user", "12 seas?"),
    ],
    [("user", "")],
    [("user", "日本 👩‍👧 <think> stays a token\n\n\tx")],
    [("user", "a < b |> c <|im_ half a token"), ("assistant", "end|> chatloop-nonce-0-0. {{ x }}")],
]
reference = []
for chat in chats:
    messages = [{"role": role, "content": content} for role, content in chat]
    template = environment.from_string(TEMPLATE)
    text = template.render(messages=messages, add_generation_prompt=True)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    reference.append({"messages": messages, "text": text, "ids": ids})
(folder / "chats.json").write_text(json.dumps(reference, indent=1) + "\n")
