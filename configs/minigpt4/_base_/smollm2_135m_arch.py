"""Sizes of SmolLM2-135M-Instruct, from its published config.json."""

smollm2_135m_arch = dict(
    model_type='llama',
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
