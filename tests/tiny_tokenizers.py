"""Tiny tokenizers of the two kinds that models have, with <bos>, and <eos> and <end> to end texts."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = ['{"name": "the quick brown fox", "sizes": [1, 22, 333], "good": true}', "hello world, null and false"] * 4


def byte_level() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True) for text in ("<bos>", "<eos>", "<end>")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        special_tokens=special, initial_alphabet=alphabet, vocab_size=400, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def byte_fallback() -> Tokenizer:
    """SentencePiece's kind, as Llama 2 and Mistral have it."""
    pieces = ["<bos>", "<eos>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz0123456789", *'{}[]":,.-\\', "▁a", "ab", "▁▁", '":', "é", "東"]
    merges = [("▁", "a"), ("a", "b"), ("▁", "▁"), ('"', ":")]
    vocabulary = {piece: id for id, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<bos>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    replace, strip = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    backend.decoder = decoders.Sequence([replace, decoders.ByteFallback(), decoders.Fuse(), strip])
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<bos>", "<eos>", "<end>")])
    return backend
