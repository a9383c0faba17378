from .restore_rwkv import LIGHT as LIGHT
from .restore_rwkv import PUBLISHED as PUBLISHED
from .restore_rwkv import RestoreRWKV as RestoreRWKV
from .restore_rwkv import RestoreRWKVSize as RestoreRWKVSize
