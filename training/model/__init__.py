"""The network: RepVGG streams, self-shuffle, coordinate attention transformer, and the whole of them, `CLN`."""

from training.config import CLNConfig, StreamConfig
from training.model.attention import CoordinateAttention, CoordinateAttentionTransformer, EncoderBlock
from training.model.cln import CLN, reparameterize
from training.model.repvgg import RepVGGBlock
from training.model.shuffle import SelfShuffle

__all__ = [
    "CLN",
    "CLNConfig",
    "CoordinateAttention",
    "CoordinateAttentionTransformer",
    "EncoderBlock",
    "RepVGGBlock",
    "SelfShuffle",
    "StreamConfig",
    "reparameterize",
]
