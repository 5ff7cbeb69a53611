#!/usr/bin/env python3
"""Times one streaming step of the encoder in every form that it can run in, beside the LayerNorm Conformer of its shape.

One process, one thread, all forms by turns, random weights, features and state in and out. Writes encoder.md (tables,
with the goals beside what was measured), encoder.json and encoder_speed.png.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from chart import draw
from forms import Form, dynamic_int8, linear_form, onnx_form, quantise, torch_form, tuned_encoder, write_graph
from gain import STEPS, gain_table, tuned_step
from models import Shape, conformer, random_model, separate_projections
from report import Goal, goals_table, table, this_run, write_report
from timing import Timing, by_turns
from tqdm import tqdm

from wenet_fusion.chunking import Chunking, chunking_label, parse_chunking
from wenet_fusion.console import run_main
from wenet_fusion.deployment import fused_model
from wenet_fusion.export.torch_engine import Precision
from wenet_fusion.models.encoder import EncoderConfig
from wenet_fusion.nn.norm import NormKind
