"""Stages that bring what the user has on disk into the store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from msm_ray.errors import UserError
from msm_ray.spec import read_spec
from msm_ray.stage import StageContext


def copy_spec(ctx: StageContext) -> dict[str, Any]:
    """Write ``spec.md``. The text must still be the one that the identity was taken from."""
    spec = read_spec(Path(ctx.runtime["path"]))
    if spec.sha256 != ctx.config["sha256"]:
        raise UserError(f"{ctx.runtime['path']}: changed while the run was starting; run it again")
    (ctx.out / "spec.md").write_text(spec.text, encoding="utf-8", newline="")
    return {
        "title": spec.title,
        "sections": len(spec.sections),
        "preferences": len(spec.preferences),
        "sha256": spec.sha256,
    }


def copy_model(ctx: StageContext) -> dict[str, Any]:
    """Copy a Hugging Face folder; hidden files are left out.

    A folder without ``fingerprint.json``, by which engines are verified, gets one; config
    ``chat_template``, where given, becomes its chat template.
    """
    from msm_ray.identity import folder_sha256

    source = Path(ctx.runtime["path"])
    shutil.copytree(
        source, ctx.out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "__pycache__")
    )
    if folder_sha256(ctx.out) != ctx.config["sha256"]:
        raise UserError(f"{source}: changed while the run was starting; run it again")
    return _completed(ctx)


def fetch_model(ctx: StageContext) -> dict[str, Any]:
    """Fetch ``hub`` at ``revision`` from the Hugging Face hub: weights, configuration, tokenizer.

    Config and runtime besides as in :func:`copy_model`. UserError where the hub does not give it:
    no network, no such name, a licence to be accepted.
    """
    from msm_ray.llm.model import on_this_machine

    source = on_this_machine(ctx.config["hub"], ctx.config["revision"])
    shutil.copytree(source, ctx.out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    return _completed(ctx)


def _completed(ctx: StageContext) -> dict[str, Any]:
    """Add the chat template and ``fingerprint.json``; the facts of a model's folder.

    UserError where runtime ``chats`` says that conversations will be trained on, and the model has
    no format for them: better now than when they are written and paid.
    """
    if template := ctx.config.get("chat_template"):
        (ctx.out / "chat_template.jinja").write_text(template, encoding="utf-8")
    elif ctx.runtime.get("chats") and not _has_chat_template(ctx.out):
        raise UserError(
            "model: its tokenizer has no chat template, and conversations are to be trained on; "
            "give one as model.chat_template"
        )
    if not (ctx.out / "fingerprint.json").is_file():
        from msm_ray.train.fingerprint import write_fingerprint

        write_fingerprint(ctx.out)
    return {"files": len([p for p in ctx.out.rglob("*") if p.is_file()])}


def _has_chat_template(folder: Path) -> bool:
    from transformers import AutoTokenizer

    return bool(AutoTokenizer.from_pretrained(folder).chat_template)
