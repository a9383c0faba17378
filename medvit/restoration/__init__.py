"""Networks that make a poor image a better one, and the physics that makes a good image a poor one."""

from medvit.restoration.restore_rwkv import LIGHT, PUBLISHED, RestoreRWKV, RestoreRWKVSize

__all__ = ["LIGHT", "PUBLISHED", "RestoreRWKV", "RestoreRWKVSize"]
