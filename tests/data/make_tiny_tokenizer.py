"""Writes tests/data/tiny_tokenizer: a byte-level BPE with a few merges, three special tokens and
one added token that is not special. Run it only to change the tokenizer; its output is committed.
"""
import json
from pathlib import Path

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
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
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
