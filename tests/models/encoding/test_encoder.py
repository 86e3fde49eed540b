"""`TransformerEncoder` on tiny random models: folders, GGUF files, pooling, batches, prompts and refusals."""

import hashlib
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertModel, RobertaConfig, RobertaModel

from penchant.models.encoding import pretrained
from penchant.models.encoding.backends.base import embed
from penchant.models.encoding.backends.torch import TorchBackend
from penchant.models.encoding.encoder import Encoder, EncoderError, Encoding
from penchant.models.encoding.loading import load_encoder
from penchant.models.encoding.model_files import ModelCard, find_model_files
from penchant.models.encoding.tokens import TextTokenizer

TEXTS = ["a b c", "d", "e f g h i j k l m n o p " * 3, "", "b a c", "c " * 20, "zzz"]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random decoder of one layer as llama.cpp stores it, byte-level tokens included."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    rng = np.random.default_rng(0)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    tokens = ["<|endoftext|>", *letters, "th", "he"]
    width, inner = 32, 48
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["t h", "h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    block = {
        "attn_norm": (width,),
        "ffn_norm": (width,),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
    }
    block |= {f"attn_{part}": (width, width) for part in ("q", "k", "v", "output")}
    block |= {"ffn_down": (width, inner)}
    shapes |= {f"blk.0.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(source: Path, **options: object) -> Encoder:
    """Load the encoder on torch, the reference for all other backends (test_backends.py)."""
    return load_encoder(str(source), backend="torch", precision="float32", device="cpu", **options)


def assert_company_does_not_matter(encoder: Encoder, texts: list[str]) -> None:
    """Assert that a text's vector does not depend on the rest of the batch, the order or the padding."""
    separate = np.concatenate([encoder.encode([text]).embeddings for text in texts])
    np.testing.assert_allclose(encoder.encode(texts).embeddings, separate, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(texts[::-1]).embeddings[::-1], separate, atol=1e-5)
    many = encoder.encode(texts * 40).embeddings
    np.testing.assert_allclose(many, np.tile(separate, (40, 1)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(separate, axis=1), 1.0, atol=1e-5)


def find_card(source: Path) -> ModelCard:
    return pretrained.load_pretrained(find_model_files(str(source)), "mean")[0]


# ---------------------------------------------------------------- vectors


def test_mean_pooling_is_the_mean_over_real_tokens(bert):
    encoder = load(bert)
    encoded = encoder.encode(["a b c", "d"])
    model = AutoModel.from_pretrained(bert).eval()
    for row, ids in zip(encoded.embeddings, [[2, 4, 5, 6, 3], [2, 7, 3]], strict=True):
        with torch.inference_mode():
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
    assert encoded.tokens.tolist() == [5, 3]
    assert encoded.embeddings.dtype == np.float32
    assert (encoder.dim, encoder.max_tokens, encoder.joint, encoder.pooling) == (16, 32, False, "mean")


def test_last_pooling_is_the_last_real_token(llama):
    encoder = load(llama, pooling="last")
    encoded = encoder.encode(["a b c", "d", "e f g h i"])
    model = AutoModel.from_pretrained(llama).eval()
    for row, ids in zip(encoded.embeddings, [[4, 5, 6], [7], [8, 9, 10, 11, 12]], strict=True):
        with torch.inference_mode():
            last = model(torch.tensor([ids])).last_hidden_state[0, -1].numpy()
        np.testing.assert_allclose(row, last / np.linalg.norm(last), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_do_not_depend_on_the_batch(bert, llama, pooling):
    for folder in (bert, llama):
        assert_company_does_not_matter(load(folder, pooling=pooling), TEXTS)


def test_batches_are_cut_by_padded_tokens_and_hold_every_text_once(bert, monkeypatch):
    encoder = load(bert)
    whole = encoder.encode(TEXTS * 5).embeddings
    monkeypatch.setattr(encoder._backend, "most_tokens", 40)  # a batch of the longest texts holds one text
    np.testing.assert_allclose(encoder.encode(TEXTS * 5).embeddings, whole, atol=1e-5)


def test_a_gguf_file_loads(gguf_file):
    encoder = load(gguf_file, pooling="last")
    assert (encoder.dim, encoder.max_tokens) == (32, 64)
    assert_company_does_not_matter(encoder, ["the cat", "a", "", "é 🎉", "the " * 30])
    assert encoder.encode(["the"]).tokens.tolist() == [2]  # t·h → th, then e
    assert load(gguf_file, pooling="last").identity == encoder.identity != load(gguf_file).identity


# ---------------------------------------------------------------- length, prompts, odd texts


def test_long_texts_are_cut_and_reported(bert):
    encoder = load(bert)
    encoded = encoder.encode(["a " * 30, "a " * 31, "a " * 1_000_000])
    assert encoded.tokens.tolist() == [32, 32, 32]
    assert encoded.truncated.tolist() == [False, True, True]
    np.testing.assert_allclose(encoded.embeddings[1:], encoded.embeddings[[0, 0]], atol=1e-5)
    short = load(bert, max_tokens=10).encode(["a " * 8, "a " * 9])
    assert (short.tokens.tolist(), short.truncated.tolist()) == ([10, 10], [False, True])


def test_prompts_are_read_in_joint_mode_only(bert):
    joint, separate = load(bert, joint=True), load(bert)
    texts = ["a b", "a b"]
    prompted = joint.encode(texts, ["c d", "e f"])
    assert prompted.tokens.tolist() == [7, 7]  # [CLS] c d [SEP] a b [SEP]
    assert np.abs(prompted.embeddings[0] - prompted.embeddings[1]).max() > 1e-3
    ignored = separate.encode(texts, ["c d", "e f"])
    np.testing.assert_array_equal(ignored.embeddings[0], ignored.embeddings[1])
    assert ignored.tokens.tolist() == [4, 4]


def test_a_long_prompt_never_displaces_the_text(bert):
    encoder = load(bert, joint=True)
    huge = "p " * 100_000
    encoded = encoder.encode(["a b", "a c", "a " * 20, "a " * 200], [huge] * 4)
    assert (encoded.tokens == 32).all()
    # 29 tokens remain besides [CLS] and two [SEP]. The prompt may take at least a quarter of them, 7.
    assert encoded.truncated.tolist() == [False, False, False, True]
    assert np.abs(encoded.embeddings[0] - encoded.embeddings[1]).max() > 1e-3
    np.testing.assert_allclose(
        encoder.encode(["a b"], ["p " * 27]).embeddings[0], encoded.embeddings[0], atol=1e-5
    )
    np.testing.assert_allclose(
        encoder.encode(["a " * 22], ["p " * 7]).embeddings[0], encoded.embeddings[3], atol=1e-5
    )


def test_no_prompt_equals_an_empty_prompt(bert):
    """Both have the same `FeatureExtractor.key(text)`, so they must have the same vector."""
    encoder = load(bert, joint=True)
    bare, empty = encoder.encode(TEXTS), encoder.encode(TEXTS, [""] * len(TEXTS))
    np.testing.assert_allclose(bare.embeddings, empty.embeddings, atol=1e-5)


def test_a_short_prompt_takes_no_more_than_it_needs(bert):
    encoded = load(bert, joint=True).encode(["a " * 27, "a " * 28], ["c d", "c d"])
    assert (encoded.tokens.tolist(), encoded.truncated.tolist()) == ([32, 32], [False, True])


@pytest.mark.parametrize(
    "text", ["", " ", "\ud800", "a \udfff b", "\x00\x01", "🎉" * 99, "\u202e", "x" * 100_000]
)
@pytest.mark.parametrize("joint", [False, True])
def test_unusual_texts_become_unit_vectors(bert, llama, text, joint):
    for folder in (bert, llama):
        encoded = load(folder, joint=joint).encode([text], [text])
        assert np.linalg.norm(encoded.embeddings[0]) == pytest.approx(1.0, abs=1e-5)


def test_no_texts_give_no_rows(bert):
    encoded = load(bert).encode([])
    assert encoded.embeddings.shape == (0, 16)
    assert encoded.tokens.shape == encoded.truncated.shape == encoded.counts.shape == (0,)
    assert encoded.windows.shape == (0, 16)


# ---------------------------------------------------------------- windows


def test_a_long_text_is_the_mean_of_its_windows(bert):
    """32 positions leave room for 30 letters. 45 letters are two full windows, which overlap."""
    encoder, single = load(bert, max_windows=3), load(bert)
    letters = ("a b c d e f g h i j k l m n o p " * 7).split()
    texts = [" ".join(letters[:45]), "a b c", " ".join(letters[:91]), ""]
    encoded = encoder.encode(texts)
    parts = [letters[:30], letters[15:45], letters[:3], letters[:30], letters[30:60], letters[60:90], []]
    windows = single.encode([" ".join(part) for part in parts])
    np.testing.assert_allclose(encoded.windows, windows.embeddings, atol=1e-5)
    assert encoded.counts.tolist() == [2, 1, 3, 1]
    assert encoded.tokens.tolist() == [32 + 32, 5, 3 * 32, 2]
    assert encoded.truncated.tolist() == [False, False, True, False]
    for i, rows, weights in ((0, slice(0, 2), [1, 1]), (2, slice(3, 6), [1, 1, 1])):
        mean = np.average(encoded.windows[rows].astype(float), axis=0, weights=weights)
        np.testing.assert_allclose(encoded.embeddings[i], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(encoded.embeddings[[1, 3]], encoded.windows[[2, 6]])


@pytest.mark.parametrize("joint", [False, True])
def test_vectors_of_windows_do_not_depend_on_the_batch(bert, llama, joint):
    for folder in (bert, llama):
        encoder = load(folder, max_windows=4, max_tokens=16, joint=joint)
        assert_company_does_not_matter(encoder, [*TEXTS, "a b c d " * 100])


def test_one_window_changes_nothing(bert):
    """Neither identity nor vectors change, so that features of earlier versions remain valid."""
    plain, explicit, several = load(bert), load(bert, max_windows=1), load(bert, max_windows=2)
    assert plain.identity == explicit.identity != several.identity
    assert several.identity != load(bert, max_windows=3).identity
    settings = f"{find_card(bert).weights}|mean|32|False"
    assert plain.identity == hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()
    short = ["a b c", "", "d " * 30]
    expected = plain.encode(short)
    np.testing.assert_array_equal(several.encode(short).embeddings, expected.embeddings)
    assert expected.windows is expected.embeddings
    assert expected.counts.tolist() == [1, 1, 1]


@pytest.mark.parametrize("max_windows", [0, -1, 65])
def test_an_impossible_number_of_windows_is_refused(bert, max_windows):
    with pytest.raises(EncoderError, match=f"max_windows is {max_windows}, it must be from 1 to 64"):
        load(bert, max_windows=max_windows)


def test_opposite_windows_have_no_mean():
    windows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], np.float32)
    encoding = Encoding.from_windows(windows, np.array([5, 5, 3]), np.array([2, 1]), np.zeros(2, np.bool_))
    np.testing.assert_array_equal(encoding.embeddings, [[0.0, 0.0], [0.0, 1.0]])
    assert encoding.tokens.tolist() == [10, 3]


# ---------------------------------------------------------------- identity and refusals


def test_identity_depends_on_weights_and_settings(bert, llama, tmp_path):
    base = load(bert).identity
    assert load(bert).identity == base
    others = [
        load(bert, pooling="last"),
        load(bert, max_tokens=16),
        load(bert, joint=True),
        load(llama),
    ]
    assert len({base, *(e.identity for e in others)}) == 5
    shutil.copytree(bert, tmp_path / "moved")
    assert load(tmp_path / "moved").identity == base  # the location does not matter
    model = AutoModel.from_pretrained(bert)
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[3, 5] += 1e-3
    model.save_pretrained(tmp_path / "moved")
    assert load(tmp_path / "moved").identity != base  # a single weight does


def test_bfloat16_returns_float32_vectors(bert):
    card, model = pretrained.load_pretrained(find_model_files(str(bert)), "mean")
    tokens = TextTokenizer(card.tokenizer, max_tokens=32, joint=False, pad=card.pad)(TEXTS)
    rough, exact = (
        embed(TorchBackend(model, device="cpu", precision=precision, workers=1), tokens, card.pad)
        for precision in ("bfloat16", "float32")
    )
    assert rough.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rough, axis=1), 1.0, atol=1e-5)
    cosine = (rough * exact).sum(1)
    assert (cosine > 0.9999).all()
    assert (np.abs(rough - exact).max(1) > 1e-6).all()  # but computed in bfloat16


def test_a_model_that_cannot_be_loaded_is_an_encoder_error(bert, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderError, match="cannot load encoder"):
        load(tmp_path / "missing")
    with pytest.raises(EncoderError, match="cannot load encoder"):
        load(tmp_path / "missing" / "model.gguf")
    with pytest.raises(EncoderError, match="cannot load encoder"):
        load(tmp_path / "empty")
    for name, damaged in [("config.json", "{"), ("tokenizer.json", "{}")]:
        folder = tmp_path / name.removesuffix(".json")
        shutil.copytree(bert, folder)
        (folder / name).write_text(damaged)
        with pytest.raises(EncoderError, match="cannot load encoder"):
            load(folder)


def test_damaged_weights_are_an_encoder_error(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03")
    for source in (tmp_path / "cut", tmp_path / "cut.gguf"):
        with pytest.raises(EncoderError, match="cannot load encoder"):
            load(source)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_missing_device_is_an_encoder_error(bert):
    with pytest.raises(EncoderError, match="cuda"):
        load_encoder(str(bert), device="cuda")


def test_weights_that_lack_a_layer_are_refused(bert, tmp_path):
    """transformers fills missing layers with random numbers, which must never rank anything."""
    shutil.copytree(bert, tmp_path / "holes")
    weights = tmp_path / "holes" / "model.safetensors"
    state = load_file(weights)
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, weights, {"format": "pt"})
    with pytest.raises(EncoderError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        load(tmp_path / "holes")


def test_a_checkpoint_without_a_pooler_has_one_identity(bert, letter_tokenizer, tmp_path):
    """BERT's pooler, which no embedding uses, is then random, so it must not enter the identity."""
    BertModel.from_pretrained(bert, add_pooling_layer=False).save_pretrained(tmp_path)
    letter_tokenizer(framed=True).save_pretrained(tmp_path)
    assert load(tmp_path).identity == load(tmp_path).identity


def test_positions_that_start_behind_the_padding_are_not_overrun(letter_tokenizer, tmp_path):
    """RoBERTa's positions start at pad + 1, so 34 position embeddings serve 32 tokens, as 514 serve 512."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = RobertaConfig(vocab_size=20, max_position_embeddings=34, pad_token_id=1, **size)
    RobertaModel(config).save_pretrained(tmp_path)
    letter_tokenizer(framed=True).save_pretrained(tmp_path)
    assert load(tmp_path).encode(["a " * 100]).tokens.tolist() == [32]


def test_pickled_weights_are_never_read(bert, tmp_path):
    folder = tmp_path / "pickle"
    shutil.copytree(bert, folder)
    torch.save(AutoModel.from_pretrained(bert).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="safetensors"):
        load(folder)


def test_weights_that_are_not_finite_are_refused(bert, tmp_path):
    folder = tmp_path / "nan"
    shutil.copytree(bert, folder)
    model = AutoModel.from_pretrained(bert)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[4] = float("nan")
    model.save_pretrained(folder)
    encoder = load(folder)
    assert np.isfinite(encoder.encode(["b"]).embeddings).all()
    with pytest.raises(EncoderError, match="non-finite"):
        encoder.encode(["b", "a"])
