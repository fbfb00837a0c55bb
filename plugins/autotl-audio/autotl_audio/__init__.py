"""Recordings for AutoTL, which become spectrograms for backbones of images."""

from autotl_audio.sound import Clip, sound
from autotl_audio.sources import sound_folder, sound_table

__all__ = ["Clip", "sound", "sound_folder", "sound_table"]
