"""Token by token, the text is what decoding all ids at once gives."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from modelfleet_worker.errors import ModelError
from modelfleet_worker.text.detokenizer import DecoderPieces, Detokenizer
from modelfleet_worker.text.paced import PacedTokenizer

SPECIAL = "<end>"
WORDS = ["▁", "▁the", "▁fleet", "s", "▁▁", "é", "▁日", "本", "🚀", "."]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Tokenizer:
    alphabet = sorted(decoders_alphabet())
    merges_free = {token: i for i, token in enumerate([*alphabet, "Ġthe", "ĠÃ©", "æĹ", "¥"])}
    return finished(Tokenizer(models.BPE(merges_free, [])), decoders.ByteLevel())


def decoders_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return list(ByteLevel.alphabet())


def llama2() -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(["<unk>", *BYTES, *WORDS])}
    steps = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    return finished(
        Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>")), decoders.Sequence(steps)
    )


def metaspace(scheme: str) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(WORDS)}
    decoder = decoders.Metaspace(prepend_scheme=scheme)
    return finished(Tokenizer(models.WordLevel(vocabulary, unk_token="▁")), decoder)


def finished(tokenizer: Tokenizer, decoder: decoders.Decoder) -> Tokenizer:
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(SPECIAL, special=True)])
    tokenizer.add_tokens([AddedToken("<think of it>")])
    return tokenizer


def pieces(tokenizer: Tokenizer) -> DecoderPieces:
    special = tokenizer.token_to_id(SPECIAL)
    assert tokenizer.decoder is not None
    decoder = json.loads(tokenizer.decoder.__getstate__())
    return DecoderPieces(tokenizer.id_to_token, frozenset({special}), decoder)


def released(of: DecoderPieces | PacedTokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(of)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


TOKENIZERS = {
    "byte-level": byte_level(),
    "llama 2": llama2(),
    "metaspace": metaspace("always"),
    "metaspace without a prefix": metaspace("never"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=150)
def test_equals_decoding_all_ids_at_once(kind, data):
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=20))
    if kind == "llama 2":  # broken runs of byte tokens differ on purpose, see the next test
        ids = [token_id for token_id in ids if not 1 <= token_id <= 256]
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(released(pieces(tokenizer), ids)) == expected


@given(st.text(max_size=8), st.text(alphabet="▁s.", max_size=3))
def test_byte_fallback_spells_any_character(text, before):
    tokenizer = TOKENIZERS["llama 2"]
    ids = [tokenizer.token_to_id(c) for c in before]
    ids += [tokenizer.token_to_id(BYTES[byte]) for byte in text.encode()]
    assert "".join(released(pieces(tokenizer), ids)) == tokenizer.decode(ids)


def test_a_wrong_byte_is_replaced_alone_and_the_stream_goes_on():
    tokenizer = TOKENIZERS["llama 2"]
    ids = [tokenizer.token_to_id(t) for t in ["s", "<0xF0>", "<0x9F>", "s", "<0xFF>", "."]]
    assert released(pieces(tokenizer), ids) == ["s", "", "", "\ufffds", "\ufffd", ".", ""]


def test_a_character_is_released_with_its_last_byte():
    tokenizer = TOKENIZERS["llama 2"]
    ids = [tokenizer.token_to_id(BYTES[byte]) for byte in "🚀".encode()]
    assert released(pieces(tokenizer), ids) == ["", "", "", "🚀", ""]
    assert released(pieces(tokenizer), ids[:3]) == ["", "", "", "\ufffd"]


def test_a_special_token_leaves_the_spaces_around_it_alone():
    tokenizer = TOKENIZERS["llama 2"]
    ids = [tokenizer.token_to_id(t) for t in [SPECIAL, "▁the", SPECIAL, "▁fleet", "s"]]
    assert released(pieces(tokenizer), ids) == ["", "the", "", " fleet", "s", ""]


def test_knows_the_bytes_of_half_a_character_and_of_special_tokens():
    tokenizer = TOKENIZERS["byte-level"]
    known = pieces(tokenizer)
    assert known.piece(tokenizer.token_to_id("æĹ")) == "日".encode()[:2]
    assert known.piece(tokenizer.token_to_id(SPECIAL)) == SPECIAL.encode()
    assert known.piece(10**6) == b""


def test_refuses_a_decoder_that_it_does_not_know():
    with pytest.raises(ModelError, match="WordPiece"):
        DecoderPieces(lambda _: "", frozenset(), {"type": "WordPiece", "prefix": "##"})


def test_the_paced_words_have_characters_of_one_to_four_bytes():
    paced = PacedTokenizer(64)
    text = "".join(released(paced, [0, *range(1, 64), 0]))
    assert {len(character.encode()) for character in text} == {1, 2, 3, 4}
    assert paced.encode(text, add_special_tokens=False) == list(range(1, 64))
