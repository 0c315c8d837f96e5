"""Every setting of a run, what a value may be, and which settings may change when a run goes on."""

from lfr_jax.config.files import read_config as read_config
from lfr_jax.config.saved import RENAMED as RENAMED
from lfr_jax.config.saved import check_resumable as check_resumable
from lfr_jax.config.saved import differing_settings as differing_settings
from lfr_jax.config.saved import flat as flat
from lfr_jax.config.saved import from_dict as from_dict
from lfr_jax.config.saved import from_saved as from_saved
from lfr_jax.config.saved import resumable_settings as resumable_settings
from lfr_jax.config.settings import Config as Config
from lfr_jax.config.settings import Curriculum as Curriculum
from lfr_jax.config.settings import DataConfig as DataConfig
from lfr_jax.config.settings import DistributedConfig as DistributedConfig
from lfr_jax.config.settings import InitConfig as InitConfig
from lfr_jax.config.settings import MeshConfig as MeshConfig
from lfr_jax.config.settings import ModelConfig as ModelConfig
from lfr_jax.config.settings import OptimizerConfig as OptimizerConfig
from lfr_jax.config.settings import Packing as Packing
from lfr_jax.config.settings import ScheduleConfig as ScheduleConfig
from lfr_jax.config.settings import TrainConfig as TrainConfig
from lfr_jax.config.settings import gpt2 as gpt2
from lfr_jax.config.settings import llama as llama
from lfr_jax.config.values import nearest as nearest
