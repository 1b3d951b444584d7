"""Every pass against its formula in float64: on the host's pieces and threads, and on the path of an accelerator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from slr_det import hostpasses, passes

RHO, STEP, SCALE = 0.3, 0.7, 8.0
SHAPES = [(33, 16, 9, 10), (64, 16, 3, 3), (7,), (20, 30)]  # the first two span several pieces
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "channels last": lambda t: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t,
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "with gaps": lambda t: torch.stack([t, t], dim=-1)[..., 0],
}
Rows = tuple[list[Tensor], list[Tensor], list[Tensor]]


def problem(dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> Rows:
    generator = torch.Generator().manual_seed(1)
    made = [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(3)]
    weights = [LAYOUTS[layout](w.to(dtype)) for w in made[0]]
    return (
        weights,
        [torch.empty_like(w, dtype=torch.float32).copy_(z) for w, z in zip(weights, made[1], strict=True)],
        [
            torch.empty_like(w, dtype=torch.float32).copy_(lam)
            for w, lam in zip(weights, made[2], strict=True)
        ],
    )


def doubles(tensors: list[Tensor]) -> list[Tensor]:
    return [t.double() for t in tensors]


@pytest.fixture(params=["host", "host, 3 threads", "accelerator"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(hostpasses, "PIECE", 4096)
    monkeypatch.setattr(hostpasses, "_ALONE", 10_000)
    if request.param == "accelerator":
        monkeypatch.setattr(passes, "_on_host", lambda rows: False)
    if request.param == "host, 3 threads":
        torch.set_num_threads(3)  # the fixture one_thread restores it
    return str(request.param)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
class TestFormulas:
    def test_sums(self, path: str, dtype: torch.dtype, layout: str) -> None:
        w, z, lam = problem(dtype, layout)
        d = [a - b for a, b in zip(doubles(w), doubles(z), strict=True)]
        squared = sum(float((x * x).sum()) for x in d)
        inner = sum(float((x * y).sum()) for x, y in zip(d, doubles(lam), strict=True))
        # A CPU that takes the accelerator's path sums norms in plain float32.
        rel = 2e-4 if path == "accelerator" or layout == "with gaps" else 1e-7
        found = passes.sums(w, z, lam)
        assert float(found[1]) == pytest.approx(squared, rel=rel)
        assert float(found[0]) == pytest.approx(inner, rel=max(rel, 1e-6))  # signs cancel
        found = passes.sums(w, z, [])
        assert float(found[0]) == 0.0 and float(found[1]) == pytest.approx(squared, rel=rel)

    @pytest.mark.parametrize("with_multipliers", [True, False])
    def test_gradient(self, path: str, dtype: torch.dtype, layout: str, with_multipliers: bool) -> None:
        w, z, lam = problem(dtype, layout)
        lam = lam if with_multipliers else []
        found = passes.gradient(w, z, lam, RHO, torch.tensor(SCALE))
        for i, g in enumerate(found):
            expected = SCALE * ((lam[i].double() if lam else 0.0) + RHO * (w[i].double() - z[i].double()))
            assert g.dtype == dtype and g.shape == w[i].shape
            assert layout == "with gaps" or g.stride() == w[i].stride()
            torch.testing.assert_close(
                g, expected.to(dtype), rtol=1e-6 if dtype.itemsize > 2 else 1e-2, atol=1e-5
            )

    @pytest.mark.parametrize("with_multipliers", [True, False])
    def test_add_gradient(self, path: str, dtype: torch.dtype, layout: str, with_multipliers: bool) -> None:
        w, z, lam = problem(dtype, layout)
        lam = lam if with_multipliers else []
        out = [torch.ones_like(t) for t in w]
        expected = [1.0 + g.double() for g in passes.gradient(doubles(w), z, lam, RHO, torch.tensor(SCALE))]
        passes.add_gradient(out, w, z, lam, RHO, SCALE)
        for found, wanted in zip(out, expected, strict=True):
            torch.testing.assert_close(
                found, wanted.to(dtype), rtol=1e-5 if dtype.itemsize > 2 else 2e-2, atol=1e-5
            )

    def test_move(self, path: str, dtype: torch.dtype, layout: str) -> None:
        w, z, lam = problem(dtype, layout)
        expected = [c + STEP * (a - b) for a, b, c in zip(doubles(w), doubles(z), doubles(lam), strict=True)]
        before = [t.clone() for t in (*w, *z)]
        passes.move(w, z, lam, STEP)
        for found, wanted in zip(lam, expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)
        assert all(torch.equal(a, b) for a, b in zip(before, (*w, *z), strict=True))

    @pytest.mark.parametrize("step", [None, STEP])
    def test_unproject(self, path: str, dtype: torch.dtype, layout: str, step: float | None) -> None:
        w, z, lam = problem(dtype, layout)
        moved = [
            c + (step or 0.0) * (a - b) for a, b, c in zip(doubles(w), doubles(z), doubles(lam), strict=True)
        ]
        passes.unproject(w, z, lam, RHO, step)
        for i, wanted in enumerate(moved):
            torch.testing.assert_close(lam[i].double(), wanted, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(z[i].double(), w[i].double() + wanted / RHO, rtol=1e-6, atol=2e-6)

    def test_norm(self, path: str, dtype: torch.dtype, layout: str) -> None:
        w, z, _ = problem(dtype, layout)
        kept = [t > 0 for t in z]
        rel = 2e-4 if path == "accelerator" or layout == "with gaps" else 1e-7
        whole = sum(float((x * x).sum()) for x in doubles(w)) ** 0.5
        outside = sum(float((x[~k] ** 2).sum()) for x, k in zip(doubles(w), kept, strict=True)) ** 0.5
        assert passes.norm(w) == pytest.approx(whole, rel=rel)
        assert passes.norm(w, kept) == pytest.approx(outside, rel=rel)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostpasses, "PIECE", 4096)
    monkeypatch.setattr(hostpasses, "_ALONE", 10_000)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        w, z, lam = problem()
        sums = passes.sums(w, z, lam)
        passes.unproject(w, z, lam, RHO, STEP)
        found.append((sums, passes.norm(w), *z, *lam))
    for other in found[1:]:
        assert other[:2] == found[0][:2]
        assert all(torch.equal(a, b) for a, b in zip(other[2:], found[0][2:], strict=True))  # type: ignore[arg-type]


def test_every_thread_takes_pieces_and_every_piece_is_taken_once() -> None:
    torch.set_num_threads(4)
    t = torch.zeros(40 * hostpasses.PIECE + 5)
    sizes = hostpasses._run(lambda scratch, a: a.__iadd__(1.0).size, [(t,)], 0)
    assert sorted(sizes) == [5] + [hostpasses.PIECE] * 40
    assert bool((t == 1.0).all())


def test_an_error_in_a_helper_thread_is_raised() -> None:
    torch.set_num_threads(4)

    def piece(scratch: object, a: object) -> None:
        raise FloatingPointError("a piece failed")

    with pytest.raises(FloatingPointError, match="a piece failed"):
        hostpasses._run(piece, [(torch.zeros(40 * hostpasses.PIECE),)], 0)


def test_bad_numbers_give_bad_sums_without_a_warning() -> None:
    inf, nan = float("inf"), float("nan")
    for bad in ([inf, -inf], [nan, 1.0], [inf, 1.0], [3e38, 3e38]):
        w, z = torch.tensor(bad), torch.zeros(2)
        inner, squared = passes.sums([w], [z], [torch.tensor([1.0, 1.0])])
        assert not torch.isfinite(torch.tensor([float(inner), float(squared)])).all()
    big = torch.full((3 * hostpasses.PIECE,), 1.0)
    big[0], big[-1] = inf, -inf
    inner, squared = passes.sums([big], [torch.zeros_like(big)], [torch.ones_like(big)])
    assert inner != inner and squared == inf


def test_the_penalty_costs_no_temporary_on_the_host() -> None:
    """Scratch is a few pieces, however large the tensors are."""
    import tracemalloc

    w, z, lam = ([torch.zeros(4_000_000)] for _ in range(3))
    tracemalloc.start()
    passes.sums(w, z, lam)
    passes.unproject(w, z, lam, RHO, STEP)
    passes.move(w, z, lam, STEP)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 4 * hostpasses.PIECE


def test_buckets_hold_every_tensor_once_and_none_is_larger_than_the_largest_tensor() -> None:
    tensors = [torch.empty(n) for n in (5, 3, 3, 1, 10, 2, 8, 9)]
    found = passes.buckets(tensors)
    assert [i for part in found for i in part] == list(range(8))
    assert [sum(tensors[i].numel() for i in part) for part in found] == [8, 4, 10, 10, 9]
