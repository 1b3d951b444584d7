"""Checkpoints on the disk: written as a whole or not at all, and never fewer than before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from slr_det.errors import ConfigError
from slr_det.files import atomic_write

BACKEND = "slr_det"


@register_backend(BACKEND, force=True)
class SafeBackend(LocalBackend):
    """Local files: writes are atomic, and removals wait until :meth:`carry_out`."""

    def __init__(self) -> None:
        self._outdated: list[Path] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        atomic_write(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        atomic_write(filepath, obj.encode(encoding))

    def remove(self, filepath: str | Path) -> None:
        if is_main_process():
            self._outdated.append(Path(filepath))

    def carry_out(self, keep: str | Path | None) -> None:
        """Remove what was to be removed, but never ``keep``, the file written last."""
        for path in self._outdated:
            if keep is None or path != Path(keep):
                path.unlink(missing_ok=True)
        self._outdated.clear()


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook for runs that may be killed at any moment; takes the same arguments.

    mmengine writes ``epoch_3.pth`` in place, after it has removed the one that ``max_keep_ckpts`` leaves no room
    for. Here a checkpoint appears under its name once all of it is on the disk, then ``last_checkpoint`` names it
    (atomically as well), then outdated ones go. A full disk raises StorageError and leaves what was there.

    Raises:
        ConfigError: ``backend_args`` or ``file_client_args`` are given, or ``out_dir`` is not a local folder.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        problems = [
            f"SafeCheckpointHook writes to local folders only; remove {key}, or use CheckpointHook"
            for key in ("backend_args", "file_client_args")
            if kwargs.get(key) is not None
        ]
        if "://" in str(kwargs.get("out_dir") or ""):
            problems.append(
                f"out_dir is '{kwargs['out_dir']}', expected a local folder; change it, or use CheckpointHook"
            )
        if problems:
            raise ConfigError(problems)
        super().__init__(*args, backend_args={"backend": BACKEND}, **kwargs)

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if is_main_process():
            for left_over in Path(self.out_dir).glob(".*.pth.*.tmp"):  # of a process that was killed
                left_over.unlink(missing_ok=True)
            self.file_backend.carry_out(None)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        if self.max_keep_ckpts > 0 and not (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                self.file_backend.remove(self.file_backend.join_path(self.out_dir, outdated))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            atomic_write(Path(runner.work_dir) / "last_checkpoint", str(self.last_ckpt))
            self.file_backend.carry_out(self.last_ckpt)
