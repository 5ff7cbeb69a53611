"""Small WeNet recipes in YAML, as WeNet's train.py saves them and its init_model reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

BINS = 80


class Recipe(NamedTuple):
    """The settings of a WeNet recipe that its exports depend on."""

    encoder: str = "conformer"
    input_layer: str = "conv2d"
    kernel: int = 8
    norm: str = "layer_norm"
    causal: bool = True
    decoder: str = "bitransformer"
    vocabulary: int = 60
    cmvn: bool = True
    blocks: int = 2
    heads: int = 2
    width: int = 32
    reserved: bool = True  # <sos/eos> is token 2; else the last one, as in WeNet's first recipes

    def tokens(self) -> list[str]:
        """Return the vocabulary; each token is a Chinese character."""
        letters = [chr(0x4E00 + number) for number in range(self.vocabulary - 3)]
        return (
            ["<blank>", "<unk>", "<sos/eos>", *letters]
            if self.reserved
            else ["<blank>", "<unk>", *letters, "<sos/eos>"]
        )

    def record(self, folder: Path) -> dict[str, Any]:
        """Return the training's YAML, as WeNet's train.py saves it."""
        encoder = {
            "output_size": self.width,
            "attention_heads": self.heads,
            "linear_units": 2 * self.width,
            "num_blocks": self.blocks,
            "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1,
            "attention_dropout_rate": 0.1,
            "input_layer": self.input_layer,
            "normalize_before": True,
            "use_dynamic_chunk": True,
            "use_dynamic_left_chunk": False,
        }
        if self.encoder == "conformer":
            encoder |= {
                "cnn_module_kernel": self.kernel,
                "use_cnn_module": True,
                "activation_type": "swish",
                "pos_enc_layer_type": "rel_pos",
                "selfattention_layer_type": "rel_selfattn",
                "causal": self.causal,
                "cnn_module_norm": self.norm,
            }
        decoder = {
            "attention_heads": self.heads,
            "linear_units": 2 * self.width,
            "num_blocks": 2,
            "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1,
            "self_attention_dropout_rate": 0.1,
            "src_attention_dropout_rate": 0.1,
        }
        is_bidirectional = self.decoder == "bitransformer"
        if is_bidirectional:
            decoder["r_num_blocks"] = 1
        record = {
            "encoder": self.encoder,
            "encoder_conf": encoder,
            "decoder": self.decoder,
            "decoder_conf": decoder,
            "tokenizer": "char",
            "tokenizer_conf": {"symbol_table_path": str(folder / "units.txt"), "split_with_space": False},
            "ctc": "ctc",
            "ctc_conf": {"ctc_blank_id": 0},
            "model": "asr_model",
            "model_conf": {
                "ctc_weight": 0.3,
                "lsm_weight": 0.1,
                "length_normalized_loss": False,
                "reverse_weight": 0.3 if is_bidirectional else 0.0,
            },
            "dataset": "asr",
            "dataset_conf": {
                "resample_conf": {"resample_rate": 16000},
                "speed_perturb": True,
                "fbank_conf": {"num_mel_bins": BINS, "frame_shift": 10, "frame_length": 25, "dither": 0.1},
                "spec_aug": True,
                "spec_aug_conf": {"num_t_mask": 2, "num_f_mask": 2, "max_t": 50, "max_f": 10},
                "shuffle": True,
                "shuffle_conf": {"shuffle_size": 1500},
                "batch_conf": {"batch_type": "dynamic", "max_frames_in_batch": 12000},
            },
            "grad_clip": 5,
            "accum_grad": 1,
            "max_epoch": 360,
            "log_interval": 100,
            "optim": "adam",
            "optim_conf": {"lr": 0.001},
            "scheduler": "warmuplr",
            "scheduler_conf": {"warmup_steps": 25000},
            "input_dim": BINS,
            "output_dim": self.vocabulary,
        }
        if self.reserved:
            special = {"<blank>": 0, "<unk>": 1, "<sos>": 2, "<eos>": 2}
            record["tokenizer_conf"]["special_tokens"] = special
        if self.cmvn:
            record |= {
                "cmvn": "global_cmvn",
                "cmvn_conf": {"cmvn_file": str(folder / "global_cmvn"), "is_json_cmvn": True},
            }
        return record
