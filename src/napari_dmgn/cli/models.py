"""List the installed models, show one's facts and card, verify, make, average, import the authors' own."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dmgn.cli.common import (
    UsageError,
    add_json_option,
    check_absent,
    named_path,
    one_line,
    print_json,
    seed,
    size,
)
from napari_dmgn.model.config import PRESETS, NetworkConfig
from napari_dmgn.zoo import TASKS

if TYPE_CHECKING:
    from napari_dmgn.official import ImportReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn models``."""
    actions = parser.add_subparsers(metavar="list|info|verify|new|average|import-official", required=True)
    list_ = actions.add_parser("list", help="list the installed models", allow_abbrev=False)
    list_.set_defaults(action=_list)
    info = actions.add_parser("info", help="show what a model costs, and its card", allow_abbrev=False)
    info.add_argument("model", metavar="NAME|PATH|PRESET", help=f"presets: {', '.join(PRESETS)}")
    info.add_argument(
        "--size", type=size, default=(256, 256), metavar="WIDTHxHEIGHT",
        help="image that the multiplications are counted for (default: 256x256)",
    )  # fmt: skip
    info.add_argument("--measure", action="store_true", help="measure the receptive field too, by gradients (seconds)")
    info.set_defaults(action=_info)
    verify = actions.add_parser("verify", help="load models strictly and show their checksums", allow_abbrev=False)
    verify.add_argument("models", metavar="NAME|PATH", nargs="*", help="default: every installed model")
    verify.set_defaults(action=_verify)
    official = actions.add_parser(
        "import-official", help="turn the DMGN authors' .pth file into a model file", allow_abbrev=False
    )
    official.add_argument("file", type=named_path, metavar="FILE")
    official.add_argument("--task", choices=TASKS, required=True, help="what the file was trained to remove")
    official.add_argument(
        "-o", "--output", type=named_path, metavar="OUT", help="a .safetensors file (default: in the models folder)"
    )
    official.add_argument("--overwrite", action="store_true", help="replace an existing file")
    official.set_defaults(action=_import_official)
    new = actions.add_parser("new", help="write an untrained model for a training to start from", allow_abbrev=False)
    new.add_argument("--preset", choices=PRESETS, required=True)
    new.add_argument("--task", choices=TASKS, default="rain", help="what it will be trained for (default: rain)")
    new.add_argument(
        "--vgg19", metavar="FILE|download",
        help="VGG-19's weights, which the presets paper and official-* build on: a .pth or .safetensors file with "
        "torchvision's names, or 'download', torchvision's own file of 575 MB, kept in the cache "
        "(default: what was downloaded before)",
    )  # fmt: skip
    new.add_argument("--seed", type=seed, default=0, help="of the random weights (default: 0)")
    new.add_argument("-o", "--output", type=named_path, required=True, metavar="OUT", help="a .safetensors file")
    new.add_argument("--overwrite", action="store_true", help="replace an existing file")
    new.set_defaults(action=_new)
    average = actions.add_parser(
        "average", help="write the mean of models of one training, often better than each", allow_abbrev=False
    )
    average.add_argument("models", metavar="NAME|PATH", nargs="+", help="two or more, of one task and one network")
    average.add_argument(
        "--shares", type=float, nargs="+", metavar="S", help="of each model, above 0 (default: equal ones)"
    )
    average.add_argument("-o", "--output", type=named_path, required=True, metavar="OUT", help="a .safetensors file")
    average.add_argument("--overwrite", action="store_true", help="replace an existing file")
    average.set_defaults(action=_average)
    for action in (list_, info, verify, new, average, official):
        add_json_option(action)


def run(args: argparse.Namespace) -> int:
    """Run the action that was asked for."""
    status: int = args.action(args)
    return status


def _list(args: argparse.Namespace) -> int:
    from napari_dmgn.zoo import list_models

    models = list_models()  # logs those that are broken
    if args.json:
        print_json([_facts(model) for model in models])
        return 0
    rows: list[tuple[str, ...]] = [("NAME", "TASK", "PARAMETERS", "SIZE", "ORIGIN", "FILE")]
    for model in models:
        origin = "shipped" if model.shipped else "yours"
        size = f"{model.bytes / 1e6:.1f} MB"
        rows.append((model.name, model.task, f"{model.parameters:,}", size, origin, str(model.path)))
    _print_table(rows)
    return 0


def _info(args: argparse.Namespace) -> int:
    from napari_dmgn.zoo import find_model, list_models

    if args.model in PRESETS and args.model not in {model.name for model in list_models()}:
        config = PRESETS[args.model]
        facts: dict[str, Any] = {"preset": args.model, **_costs(config, args)}
        facts["config"] = config.to_dict()
    else:
        model = find_model(args.model)
        config = NetworkConfig.from_dict(model.config)
        facts = _facts(model) | _costs(config, args)
        facts |= {"sha256": model.sha256, "config": model.config, "card": model.card}
    if args.json:
        print_json(facts)
    else:
        _print_facts(facts)
    return 0


def _costs(config: NetworkConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Return what follows from the settings alone; torch is loaded for a measurement only."""
    from napari_dmgn.model.cost import cost
    from napari_dmgn.model.reach import receptive_radius

    width, height = args.size
    found = cost(config, height, width)
    facts: dict[str, Any] = {"parameters": found.parameters, "size": f"{width}x{height}"}
    facts["gmac"] = round(found.macs / 1e9, 3)
    if found.plain_macs != found.macs:
        facts["gmac_of_plain_hypercolumn"] = round(found.plain_macs / 1e9, 3)
    facts["receptive_field"] = 2 * receptive_radius(config) + 1  # the attention's averages see the whole image
    if args.measure:
        from napari_dmgn.model.measure import measured_radius

        facts["receptive_field_measured"] = 2 * measured_radius(config) + 1
    return facts


def _verify(args: argparse.Namespace) -> int:
    from napari_dmgn.checkpoint import CheckpointError, load
    from napari_dmgn.zoo import broken_models, find_model, list_models

    if args.models:
        models, broken = [], []
        for name in args.models:
            try:
                models.append(find_model(name))
            except (OSError, ValueError) as error:
                broken.append((name, one_line(error)))
    else:
        models, broken = list_models(), broken_models()
    reports: list[dict[str, Any]] = [{"path": path, "ok": False, "error": message} for path, message in broken]
    for model in models:
        report: dict[str, Any] = {"path": model.path, "name": model.name, "sha256": model.sha256}
        try:
            load(model.path)
        except CheckpointError as error:
            reports.append(report | {"ok": False, "error": str(error)})
        else:
            reports.append(report | {"ok": True})
    if args.json:
        print_json(reports)
    else:
        for report in reports:
            print(f"ok  {report['sha256']}  {report['path']}" if report["ok"]
                  else f"BROKEN  {report['path']}: {report['error']}")  # fmt: skip
    return 0 if all(report["ok"] for report in reports) else 1


def _new(args: argparse.Namespace) -> int:
    from napari_dmgn.vgg_weights import new_model

    _check_output(args.output, args)
    fetch = args.vgg19 == "download"
    new_model(
        args.output,
        PRESETS[args.preset],
        task=args.task,
        vgg19=None if fetch else args.vgg19,
        fetch=fetch,
        seed=args.seed,
        progress=_bytes_bar() if fetch else None,
    )
    if args.json:
        print_json({"path": args.output})
    else:
        print(f"{args.output}: untrained, preset {args.preset}; name it as start of a training")
    return 0


def _average(args: argparse.Namespace) -> int:
    from napari_dmgn.averaging import average_models
    from napari_dmgn.zoo import find_model

    _check_output(args.output, args)
    files = [find_model(name).path for name in args.models]
    used = average_models(files, args.output, shares=args.shares)
    if args.json:
        print_json({"path": args.output, "averaged": used})
    else:
        parts = (f"{one['share']:.3g} {file}" for one, file in zip(used, files, strict=True))
        print(f"{args.output}: {' + '.join(parts)}")
    return 0


def _check_output(path: Path, args: argparse.Namespace) -> None:
    """Refuse, before any work, a place that no model would be found at."""
    if path.suffix.lower() != ".safetensors":
        raise UsageError(f"a model is a .safetensors file; got {str(path)!r}")
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; a file is wanted")
    check_absent(path, overwrite=args.overwrite)


def _bytes_bar() -> Any:
    """Return a function that draws a bar of bytes on a terminal."""
    import sys

    from tqdm import tqdm

    bar = tqdm(unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty())

    def show(done: int, total: int | None) -> None:
        bar.total, bar.n = total, done
        bar.refresh()

    return show


def _import_official(args: argparse.Namespace) -> int:
    from napari_dmgn.official import MissingTensorsError, import_official
    from napari_dmgn.zoo import models_folder

    output = args.output or models_folder() / f"official-{args.task}.safetensors"
    _check_output(output, args)
    try:
        report = import_official(args.file, args.task, output)
    except MissingTensorsError as error:
        if error.report.used:  # of a file that has none, every line would say so
            _tell_import(error.report, None, as_json=args.json)
        raise
    _tell_import(report, output, as_json=args.json)
    return 0


def _tell_import(report: "ImportReport", output: Path | None, *, as_json: bool) -> None:
    """Print what became of every key; without an output nothing was written."""
    if as_json:
        facts = {"used": report.used, "dropped": report.dropped, "missing": report.missing}
        print_json({"path": output, **facts})
        return
    for key, name in report.used.items():
        print(f"used     {key} -> {name}")
    for key, why in report.dropped.items():
        print(f"dropped  {key}: {why}")
    for key in report.missing:
        print(f"missing  {key}")
    if output is not None:
        print(f"{len(report.used)} tensors used, {len(report.dropped)} dropped, none missing: {output}")


def _facts(model: Any) -> dict[str, Any]:
    names = ("name", "task", "path", "parameters", "bytes", "shipped")
    return {name: getattr(model, name) for name in names}


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_facts(facts: dict[str, Any], indent: str = "") -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{indent}{name}:")
            _print_facts(value, indent + "  ")
        else:
            print(f"{indent}{name}: {value}")
