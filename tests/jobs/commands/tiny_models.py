"""Models of Hugging Face with random weights, a few hundred bytes to a few kB."""

import json

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_stride": (8, 8),
    "conv_kernel": (8, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def save_xvector(folder):
    """A model of speakers."""
    import transformers as t

    config = t.Wav2Vec2Config(**SIZES, tdnn_dim=(8, 8, 8, 8, 16), xvector_output_dim=8)
    t.Wav2Vec2ForXVector(config).save_pretrained(folder)
    t.Wav2Vec2FeatureExtractor().save_pretrained(folder)


def save_ctc(folder):
    """A speech recognizer that labels frames."""
    import transformers as t

    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate("_|abcde")}))
    tokenizer = t.Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), pad_token="_", unk_token="_", bos_token=None, eos_token=None
    )
    t.Wav2Vec2ForCTC(t.Wav2Vec2Config(**SIZES, vocab_size=7)).save_pretrained(folder)
    t.Wav2Vec2Processor(t.Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)


def save_english_whisper(folder):
    """An English-only Whisper of one layer that writes letters until its context is full."""
    import transformers as t
    from tokenizers import AddedToken, Tokenizer, models

    end, start, plain = special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    ids = {token: index for index, token in enumerate([*"abcdefgh", *special])}
    vocabulary = Tokenizer(models.BPE({letter: ids[letter] for letter in "abcdefgh"}, []))
    vocabulary.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    ends = {f"{name}_token": end for name in ("bos", "eos", "pad", "unk")}
    t.WhisperTokenizer(tokenizer_object=vocabulary, **ends).save_pretrained(folder)
    t.WhisperFeatureExtractor(chunk_length=1).save_pretrained(folder)
    sizes = {"d_model": 16, "max_source_positions": 50, "max_target_positions": 32}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 1, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 16}
    tokens = {"decoder_start": start, "bos": end, "eos": end, "pad": end}
    token_ids = {f"{name}_token_id": ids[token] for name, token in tokens.items()}
    network = t.WhisperForConditionalGeneration(
        t.WhisperConfig(vocab_size=len(ids), **sizes, **token_ids)
    )
    generation = network.generation_config
    generation.is_multilingual = False
    generation.no_timestamps_token_id = ids[plain]
    generation.suppress_tokens = [ids[token] for token in special]
    generation.begin_suppress_tokens = None
    generation.max_length = 32
    network.save_pretrained(folder)
