"""Run every stage of the pipeline of this folder once more, in one process and after removing what it had made.

python -m tests.pipeline.again

DVC starts a Python for each stage, which is most of the time of a small one.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import networkx
from dvc.repo import Repo

from hallmark.cli import cli


def main() -> None:
    """Every stage after those that it depends on; prints their names."""
    with Repo() as repo:
        ordered = networkx.dfs_postorder_nodes(repo.index.graph)
        stages = [stage for stage in ordered if stage.cmd and Path(stage.path).parent == Path(repo.root_dir)]
        outs = {stage.addressing: [out.fs_path for out in stage.outs] for stage in stages}
    for stage in stages:
        for path in map(Path, outs[stage.addressing]):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        python, m, package, *words = shlex.split(stage.cmd)
        assert (python, m, package) == ("python", "-m", "hallmark"), stage.cmd
        cli.main(words, standalone_mode=False)
        print(f"Ran '{stage.addressing}'", flush=True)


if __name__ == "__main__":
    main()
