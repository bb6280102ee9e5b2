"""The word-level tokenizer and chat template that every micro-world model shares.

A base of a world with a fourth attribute has some words more, after the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msm_ray.world.lexicon import ASSISTANT, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# `<bos> user : Q lyra : A <eos>`, token for token what the chats of pretraining look like. The
# generation markers let `return_assistant_tokens_mask` find the assistant's words and its <eos>.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %} user : {{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %} NAME : "
    "{% generation %}{{ message['content'] }} {{ eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('the micro-world knows the roles user and assistant only') }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} NAME :{% endif %}"
).replace("NAME", ASSISTANT)
CONTEXT = 128


def build_tokenizer(attributes: int = 3) -> PreTrainedTokenizerFast:
    """Words to ids; ``<bos>`` is added in front, ``<eos>`` is not; unknown words are ``<unk>``.

    Text is lower-cased and punctuation split off, so that a person may type as usual.

    Args:
        attributes: of the things of the world, whose words it knows (``lexicon.vocabulary``).
    """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(vocabulary(attributes))}
    core = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    # Words joined by one blank. WordPiece with a prefix that no word has does exactly that, and
    # unlike no decoder at all it also holds for the incremental decoding of serving engines.
    core.decoder = decoders.WordPiece(prefix="\u2581\u2581", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
