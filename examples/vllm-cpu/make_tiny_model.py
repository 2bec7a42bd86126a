"""Write a llama of a few million parameters that needs no download.

    python make_tiny_model.py DIR

DIR gets a config and a tokenizer and no weights: start the engine with `--load-format dummy`, which draws them.
The tokenizer is trained on the sources of Python's standard library, so that the same Python gives the same one.
Needs `transformers` and `tokenizers`, which come with vLLM.
"""

import itertools
import sys
import sysconfig
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

VOCABULARY = 1024
SPECIALS = ["<unk>", "<s>", "</s>"]  # ids 0, 1 and 2
SOURCE_FILES = 200
CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = itertools.islice(sorted(library.glob("*.py")), SOURCE_FILES)
    bpe = Tokenizer(models.BPE(unk_token=SPECIALS[0]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train([str(path) for path in sources], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token=SPECIALS[0], bos_token=SPECIALS[1], eos_token=SPECIALS[2]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def model_config() -> LlamaConfig:
    """Small enough that a CPU core makes hundreds of tokens a second."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
    )


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_tiny_model.py DIR")
    folder = Path(sys.argv[1])
    train_tokenizer().save_pretrained(folder)
    model_config().save_pretrained(folder)
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
