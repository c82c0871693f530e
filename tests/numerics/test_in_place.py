"""The kernels that only fused blocks call: dense layers with all their gradients, and masks of bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from revgnn.ops import cpu, draw_mask, linear, norm_act_drop, reference, using
from tolerances import assert_close, relative_error

pytestmark = [
    pytest.mark.skipif(not cpu.AVAILABLE, reason=cpu.STATE),
    pytest.mark.usefixtures("poison"),
]


@pytest.fixture
def any_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rows", [0, 1, 47, 48, 49, 1100])
@pytest.mark.parametrize(("inside", "outside"), [(1, 1), (3, 17), (16, 8), (64, 64), (70, 33), (40, 130)])
def test_dense_layers(rows: int, inside: int, outside: int, dtype: torch.dtype) -> None:
    x, plus = torch.randn(2, rows, inside, dtype=torch.double).to(dtype)
    weight, bias = torch.randn(outside, inside).to(dtype), torch.randn(outside).to(dtype)
    grad = torch.randn(rows, 2 * outside).to(dtype)[:, outside:]
    exact = [t.double() for t in (x, plus, weight, bias, grad)]
    scale = (inside * outside) ** 0.5
    for other in (None, plus):
        whole = exact[0] if other is None else exact[0] + exact[1]
        value = nn.functional.linear(whole, exact[2], exact[3])
        for sign in (0, 1, -1):
            out = torch.full((rows, outside + 3), 0.0 if sign else float("nan")).to(dtype)[:, 3:]
            cpu.linear(x, weight, bias, out=out, sign=sign, plus=other)
            assert_close(out / scale, ((sign or 1) * value / scale).to(dtype))
            rebuilt, dx = torch.zeros(rows, outside, dtype=dtype), torch.ones(rows, inside, dtype=dtype)
            dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
            cpu.linear_backward(
                grad, x, weight, bias, dweight=dweight, dbias=dbias, dx=dx, accumulate=sign != 0,
                value=rebuilt, sign=sign, plus=other,
            )  # fmt: skip
            assert torch.equal(rebuilt, out)
            assert_close((dx - float(sign != 0)) / scale, (exact[4] @ exact[2] / scale).to(dtype))
            assert relative_error(dweight, exact[4].t() @ whole) < (1e-13 if dtype == torch.float64 else 2e-6)
            assert_close(dbias / max(rows, 1) ** 0.5, (exact[4].sum(0) / max(rows, 1) ** 0.5).to(dtype))


@pytest.fixture(params=["avx512_bf16", "avx512", "avx2", "baseline"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run on an instruction set, where the machine and the build have it."""
    before = cpu.isa()
    try:
        cpu.use_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    cpu.use_isa(before)


@pytest.mark.parametrize("rows", [0, 1, 47, 49, 1101])
@pytest.mark.parametrize(("inside", "outside"), [(1, 1), (3, 17), (16, 8), (64, 64), (71, 33), (40, 130)])
def test_dense_layers_of_bfloat16_rows(rows: int, inside: int, outside: int, isa: str) -> None:
    """Sums, weights and their gradients are float32; a factor is rounded to bfloat16 at most once."""
    x, plus = torch.randn(2, rows, inside + 1).bfloat16()[..., 1:]
    weight, bias = torch.randn(outside, inside).bfloat16().float(), torch.randn(outside)
    scale, bf16 = (inside * outside) ** 0.5, torch.bfloat16
    for grad in (torch.randn(rows, 2 * outside)[:, outside:], torch.randn(rows, outside).bfloat16()):
        for other in (None, plus):
            whole = x.double() if other is None else x.double() + other.double()
            value = nn.functional.linear(whole, weight.double(), bias.double())
            for sign in (0, 1, -1):
                start = 0.0 if sign else float("nan")
                out, narrow = (
                    torch.full((rows, outside + 3), start)[:, 3:],
                    torch.full((rows, outside), start).bfloat16(),
                )
                cpu.linear(x, weight, bias, out=out, sign=sign, plus=other)
                cpu.linear(x, weight, bias, out=narrow, sign=sign, plus=other)
                # Without a sum to be rounded first the factors are exact, and the sums of float32.
                assert_close(
                    out.double() / scale, (sign or 1) * value / scale, dtype=bf16 if other is not None else out.dtype
                )
                assert torch.equal(narrow, out.bfloat16())
                rebuilt, dx = torch.zeros(rows, outside), torch.ones(rows, inside, dtype=bf16)
                dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
                cpu.linear_backward(
                    grad, x, weight, bias, dweight=dweight, dbias=dbias, dx=dx, accumulate=sign != 0,
                    value=rebuilt, sign=sign, plus=other,
                )  # fmt: skip
                assert torch.equal(rebuilt, out)
                assert_close(
                    (dx.double() - float(sign != 0)) / scale, grad.double() @ weight.double() / scale, dtype=bf16
                )
                total = grad.double().t() @ whole
                assert_close(dweight / max(rows, 1) ** 0.5, (total / max(rows, 1) ** 0.5).float(), dtype=bf16)
                assert_close(dbias / max(rows, 1) ** 0.5, (grad.double().sum(0) / max(rows, 1) ** 0.5).float())


def test_a_dense_layer_of_bfloat16_rows_keeps_its_sums_in_float32() -> None:
    x, weight, bias = torch.randn(50, 14).bfloat16()[:, ::2], torch.randn(9, 7).bfloat16().float(), torch.randn(9)
    cotangent, found = torch.randn(50, 9), []
    for choice in ("auto", "reference"):
        leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
        with using(choice):
            out = linear(*leaves)
        assert out.dtype == torch.float32
        found.append((out.detach(), *torch.autograd.grad(out, leaves, cotangent)))
    assert_close(found[0][0], found[1][0])
    for a, b, dtype in zip(found[0][1:], found[1][1:], (torch.bfloat16, torch.float32, torch.float32), strict=True):
        assert a.dtype == b.dtype == dtype
        assert_close(a.float() / 7, b.float() / 7, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="weight must be torch.float32, as sums over x; got torch.bfloat16"):
        linear(x, weight.bfloat16())
    with pytest.raises(ValueError, match=r"weight must be \[9, 7\], as x is \[50, 7\]; got \[9, 6\]"):
        linear(x, weight[:, 1:])


@pytest.mark.parametrize(("inside", "outside"), [(3, 17), (64, 64), (71, 33)])
def test_float32_rows_may_be_multiplied_in_bfloat16(inside: int, outside: int, isa: str) -> None:
    """Where the machine has no instruction for it, nothing is rounded."""
    x, weight, bias = torch.randn(1101, inside), torch.randn(outside, inside), torch.randn(outside)
    grad, found = torch.randn(1101, outside), []
    for narrow in (False, True):
        value, dx = torch.empty(1101, outside), torch.empty(1101, inside)
        dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
        cpu.linear(x, weight, bias, out=value, narrow=narrow)
        cpu.linear_backward(grad, x, weight, bias, dweight=dweight, dbias=dbias, dx=dx, narrow=narrow)
        found.append((value, dx, dweight, dbias))
    for a, b in zip(*found, strict=True):
        assert relative_error(b, a) < (6e-3 if isa == "avx512_bf16" else 1e-9)


@pytest.mark.parametrize("kind", ["layer", "batch", "none"])
@pytest.mark.parametrize("width", [1, 6, 16, 64, 66, 200])
def test_a_norm_rounds_its_result_alone(kind: str, width: int, isa: str) -> None:
    """float32 rows, a bfloat16 result and its bfloat16 gradient; what comes of it for x is float32."""
    x, weight, bias = 3 * torch.randn(37, width), torch.randn(width), torch.randn(width)
    cotangent, kept = torch.randn(37, width).bfloat16(), torch.rand(37, width) < 0.6
    found = []
    for dtype in (None, torch.bfloat16):
        leaves = [value.clone().requires_grad_() for value in (x, weight, bias)[: 1 if kind == "none" else 3]]
        out = norm_act_drop(*leaves, norm=kind, p=0.4, mask=kept, dtype=dtype)
        found.append((out.detach(), *torch.autograd.grad(out, leaves, cotangent.to(out.dtype))))
    assert torch.equal(found[1][0], found[0][0].bfloat16())
    assert all(torch.equal(a, b) for a, b in zip(found[0][1:], found[1][1:], strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 24, 64, 72, 200])
def test_a_mask_of_bits_does_what_one_of_bytes_does(isa: str, width: int, dtype: torch.dtype) -> None:
    rows, seed = 37, 2**40 + 3
    values = torch.randn(rows, width)
    packed, whole = (
        draw_mask(seed, rows, width, 0.3, torch.device("cpu")),
        reference.keep_mask(seed, rows * width, 0.3, torch.device("cpu")).view(rows, width),
    )
    assert packed.dtype == torch.uint8
    assert torch.equal(reference.unpack_mask(packed), whole)
    found = []
    for mask in (packed, whole):
        x = values.to(dtype).requires_grad_()
        y = norm_act_drop(x, norm="layer", p=0.3, mask=mask)
        found.append((y.detach(), *torch.autograd.grad(y, x, torch.ones_like(y))))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    with using("reference"):
        assert draw_mask(seed, rows, width, 0.3, torch.device("cpu")).dtype == torch.bool
        assert_close(norm_act_drop(x, norm="layer", p=0.3, mask=packed).detach(), found[0][0])


def test_a_mask_is_packed_only_where_no_group_cuts_a_byte() -> None:
    cpu = torch.device("cpu")
    assert draw_mask(1, 5, 48, 0.5, cpu, groups=3).shape == (5, 6)
    assert draw_mask(1, 5, 48, 0.5, cpu, groups=4).shape == (5, 48)


@pytest.mark.parametrize("alias", ["x", "grad", "plus"])
def test_the_gradient_of_a_dense_layer_may_overwrite_what_it_came_from(alias: str) -> None:
    x, plus, grad = torch.randn(3, 200, 24)
    weight, dweight = torch.randn(24, 24), torch.empty(24, 24)
    expected, expected_weight = torch.empty_like(x), torch.empty_like(weight)
    cpu.linear_backward(grad, x, weight, dweight=expected_weight, dx=expected, plus=plus)
    dx = {"x": x, "grad": grad, "plus": plus}[alias]
    cpu.linear_backward(grad, x, weight, dweight=dweight, dx=dx, plus=plus)
    assert torch.equal(dx, expected)
    assert torch.equal(dweight, expected_weight)


@pytest.mark.usefixtures("any_threads")
def test_dense_layers_give_the_same_bits_on_any_number_of_threads() -> None:
    x, grad = torch.randn(2, 9000, 20)
    weight, found = torch.randn(20, 20), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        dweight, dx, value = torch.empty(20, 20), torch.empty(9000, 20), torch.empty(9000, 20)
        cpu.linear_backward(grad, x, weight, dweight=dweight, dx=dx, value=value)
        found.append((dweight, dx, value))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
