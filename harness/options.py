"""Options and words that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

EPILOG = "Exit codes: 0 done, 1 error with a hint, 2 wrong usage, 3 a verdict failed or was lost, 130 interrupted."
path_type = click.Path(path_type=Path)
# Those of bench.backends.BACKENDS, which no command line imports before it needs them.
BACKEND_NAMES = (
    *("pytorch", "pytorch-compile", "pytorch-cuda", "pytorch-compile-cuda"),
    *("onnxruntime", "onnxruntime-cuda", "openvino", "openvino-throughput"),
    *("tensorrt", "tensorrt-graph", "tensorrt-pycuda"),
)
runs_option = click.option(
    "--runs", "runs_folder", type=path_type, default="runs", show_default=True, help="Folder of the runs."
)
data_option = click.option(
    "--data", "data_folder", type=path_type, default="data", show_default=True, help="Data set, or folder of both."
)
label_mode_option = click.option(
    "--label-mode", type=click.Choice(["multiclass", "multilabel"]), default="multiclass", show_default=True
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that change one number of a recipe each; every one is part of the run's identity."""
    options = (
        click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's."),
        click.option("--batch-size", type=click.IntRange(min=2), help="Instead of the recipe's."),
        click.option(
            "--lr", "learning_rate", type=click.FloatRange(min=0, min_open=True), help="Instead of the recipe's."
        ),
        click.option("--patience", type=click.IntRange(min=1), help="Stop after so many epochs without a better one."),
        click.option("--class-weights", type=click.Choice(["none", "balanced"]), help="Instead of the recipe's."),
        click.option(
            "--views",
            type=click.IntRange(min=1),
            help="Augmented views of each film (frozen trunk).  [default: one an epoch]",
        ),
        click.option(
            "--cache-side",
            "cache_side_px",
            type=click.IntRange(min=64),
            metavar="PX",
            help="Shrink larger films to this shorter side first.",
        ),
        click.option("--limit-batches", type=click.IntRange(min=1), help="End every epoch after so many."),
        click.option("--deterministic", is_flag=True, help="Only deterministic algorithms (GPU; the CPU is anyway)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def export_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `harness export`: what is made, then how int8 is calibrated, then how engines are built."""
    options = (
        click.option(
            "--precision",
            "precisions",
            multiple=True,
            type=click.Choice(["fp32", "fp16", "bf16", "int8", "int8-u8s8", "all"]),
            help="May be repeated.  [default: fp32]",
        ),
        click.option("--uint8-input", is_flag=True, help="Also with normalisation inside: takes uint8 pixels, NHWC."),
        click.option("--probabilities", is_flag=True, help="Also with probabilities and the answer as output."),
        click.option(
            "--calibration",
            default=128,
            show_default=True,
            type=click.IntRange(min=1),
            metavar="N",
            help="Training images that int8 ranges are measured on.",
        ),
        click.option(
            "--calibration-method",
            type=click.Choice(["minmax", "entropy", "percentile"]),
            default="minmax",
            show_default=True,
            help="How a range is taken from what was measured.",
        ),
        click.option(
            "--int8",
            type=click.Choice(["all", "auto"]),
            default="all",
            show_default=True,
            help="auto: keep layers in float until int8 holds on validation.",
        ),
        click.option("--openvino", is_flag=True, help="Also as OpenVINO IR."),
        click.option("--triton", is_flag=True, help="Also as a Triton model repository in RUNS/triton."),
        click.option(
            "--builds",
            default=1,
            show_default=True,
            type=click.IntRange(min=1),
            metavar="N",
            help="Make everything N times, to see how far builds differ.",
        ),
        click.option("--trt", "engine", is_flag=True, help="Also as a TensorRT engine."),
        click.option(
            "--flavour",
            type=click.Choice(["auto", "tensorrt", "rtx"]),
            default="auto",
            show_default=True,
            help="auto: TensorRT where a GPU and its libraries are, else TensorRT-RTX.",
        ),
        click.option(
            "--engine-batch",
            "engine_batch",
            default="1/8/32",
            show_default=True,
            metavar="MIN/OPT/MAX",
            help="Batch sizes an engine serves, and the one it is tuned for.",
        ),
        click.option(
            "--target", "targets", metavar="SM,SM", default="", help="RTX GPUs, for instance sm86,sm89.  [default: all]"
        ),
        click.option(
            "--workspace",
            "workspace_mib",
            default=4096,
            show_default=True,
            type=click.IntRange(min=1, max=1 << 24),  # 16 TiB; the libraries fail beyond 64 bits of bytes.
            metavar="MIB",
            help="Scratch memory of an engine.",
        ),
        click.option("--tf32", is_flag=True, help="Let fp32 engines multiply in TF32 (10 bits of mantissa)."),
        click.option(
            "--timing-cache", type=path_type, metavar="FILE", help="TensorRT: kernel timings kept between exports."
        ),
        click.option(
            "--hardware-compatibility",
            type=click.Choice(["none", "ampere-plus", "same-compute-capability"]),
            default="none",
            show_default=True,
            help="TensorRT: GPUs beside this one that may run the engine.",
        ),
        click.option("--version-compatible", is_flag=True, help="TensorRT: an engine for later versions too."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def bench_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `harness bench`: what is measured, how it is judged, how long it is timed."""
    options = (
        click.option(
            "--backend",
            "backends",
            multiple=True,
            type=click.Choice(BACKEND_NAMES),
            help="May be repeated.  [default: the CPU ones without -compile and -throughput, and what the GPU has]",
        ),
        click.option(
            "--artifact",
            "artifacts",
            multiple=True,
            metavar="NAME",
            help="Only these, as the table names them (fp32, int8.ir), and eager.  [default: all]",
        ),
        click.option(
            "--batch",
            "batch_sizes",
            multiple=True,
            type=click.IntRange(min=1),
            help="May be repeated.  [default: 1 and 8]",
        ),
        click.option(
            "--threads",
            multiple=True,
            type=click.IntRange(min=0),
            help="May be repeated; 0: one per core.  [default: 0]",
        ),
        click.option(
            "--margin",
            default=1.0,
            show_default=True,
            type=click.FloatRange(min=0, max=100, min_open=True),
            help="Largest loss of accuracy to accept, in percentage points. Set it before you look.",
        ),
        click.option(
            "--splits",
            type=click.Choice(["test", "test+validation", "all"]),
            default="test",
            show_default=True,
            help="Whose images decide. all: training images too, for agreement only, which they flatter.",
        ),
        click.option(
            "--quick",
            "mode",
            flag_value="quick",
            default="full",
            help="One process each and few calls: seconds, no intervals; marked so in every report.",
        ),
        click.option("--untimed", "mode", flag_value="untimed", help="Verdicts only."),
        click.option("--strict", "mode", flag_value="strict", help="12 sets of 12 rounds instead of 8 of 8."),
        click.option(
            "--scenario",
            "scenarios",
            multiple=True,
            type=click.Choice(["single-stream", "multi-stream", "server", "offline", "idle-gap"]),
            help="Also under load by MLCommons LoadGen, or after pauses. May be repeated.",
        ),
        click.option(
            "--latency-bound",
            type=click.FloatRange(min=0, min_open=True),
            metavar="MS",
            help="Server: find the highest rate whose p99 holds it.",
        ),
        click.option("--force", is_flag=True, help="Measure again what is up to date."),
    )
    for option in reversed(options):
        command = option(command)
    return command
