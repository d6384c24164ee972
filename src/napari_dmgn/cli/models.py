"""List the installed models, show a model's card, verify model files, or import the authors' own."""

import argparse
from pathlib import Path
from typing import Any

from napari_dmgn.cli.common import UsageError, add_json_option, print_json
from napari_dmgn.zoo import TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn models``."""
    actions = parser.add_subparsers(metavar="list|info|verify|import-official", required=True)
    list_ = actions.add_parser("list", help="list the installed models", allow_abbrev=False)
    list_.set_defaults(action=_list)
    info = actions.add_parser("info", help="show a model's card", allow_abbrev=False)
    info.add_argument("model", metavar="NAME|PATH")
    info.set_defaults(action=_info)
    verify = actions.add_parser(
        "verify", help="load models strictly and show their checksums", allow_abbrev=False
    )
    verify.add_argument("models", metavar="NAME|PATH", nargs="*", help="default: every installed model")
    verify.set_defaults(action=_verify)
    official = actions.add_parser(
        "import-official", help="turn the DMGN authors' .pth file into a model file", allow_abbrev=False
    )
    official.add_argument("file", type=Path, metavar="FILE")
    official.add_argument("--task", choices=TASKS, required=True, help="what the file was trained to remove")
    official.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="a .safetensors file (default: in the models folder)"
    )
    official.add_argument("--overwrite", action="store_true", help="replace an existing file")
    official.set_defaults(action=_import_official)
    for action in (list_, info, verify, official):
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
    from napari_dmgn.zoo import find_model

    model = find_model(args.model)
    facts = _facts(model) | {"sha256": model.sha256, "config": model.config, "card": model.card}
    if args.json:
        print_json(facts)
    else:
        _print_facts(facts)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from napari_dmgn.checkpoint import CheckpointError, load
    from napari_dmgn.zoo import broken_models, find_model, list_models

    if args.models:
        models, broken = [find_model(name) for name in args.models], []
    else:
        models, broken = list_models(), broken_models()
    reports: list[dict[str, Any]] = [
        {"path": path, "ok": False, "error": message} for path, message in broken
    ]
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


def _import_official(args: argparse.Namespace) -> int:
    from napari_dmgn.official import import_official
    from napari_dmgn.zoo import models_folder

    output = args.output or models_folder() / f"official-{args.task}.safetensors"
    if output.exists() and not args.overwrite:
        raise UsageError(f"{str(output)!r} exists; pass --overwrite to replace it")
    report = import_official(args.file, args.task, output)
    if args.json:
        print_json({"path": output, "used": report.used, "dropped": report.dropped})
        return 0
    for key, name in report.used.items():
        print(f"used     {key} -> {name}")
    for key, why in report.dropped.items():
        print(f"dropped  {key}: {why}")
    print(f"{len(report.used)} tensors used, {len(report.dropped)} dropped, none missing: {output}")
    return 0


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
