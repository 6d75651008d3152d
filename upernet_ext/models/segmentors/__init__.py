"""Segmentors: the whole model."""

from .encoder_decoder import EncoderDecoder
from .sliding_window import window_slices

__all__ = ['EncoderDecoder', 'window_slices']
