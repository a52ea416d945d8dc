from __future__ import annotations

import pytest
import torch

from ntt_cli.data.normalise import fit_mean_std, normalise, parse_mean_std
from ntt_cli.errors import DataError, UsageError
from ntt_cli.files.metadata import MeanStd


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((50, 3, 4, 5), (0, 2, 3)), ((50, 7), (0,)), ((50, 6, 4), (0, 1, 2)), ((50,), (0,)), ((50, 2, 3, 4, 5), None)],
    ids=["images", "vectors", "sequences", "numbers", "volumes"],
)
def test_uneven_batches_together_have_the_mean_and_deviation_of_the_whole(
    shape: tuple[int, ...], dims: tuple[int, ...] | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(shape, generator=generator) + torch.arange(shape[-1])
    fitted = fit_mean_std(x.split([1, 20, 29]))
    torch.testing.assert_close(torch.tensor(fitted.mean), x.double().mean(dim=dims).flatten().float())
    expected = x.double().std(dim=dims, correction=0).flatten().float()
    torch.testing.assert_close(torch.tensor(fitted.std), expected)


def test_a_large_mean_does_not_drown_the_deviation() -> None:
    x = torch.tensor([[1e6 + 1], [1e6 + 2], [1e6 + 3], [1e6 + 4]])
    fitted = fit_mean_std(x.split(1))
    assert fitted.mean == (1e6 + 2.5,)
    assert fitted.std == pytest.approx((1.25**0.5,), rel=1e-12)


def test_standardised_images_have_mean_0_and_deviation_1_in_every_channel() -> None:
    x = torch.randn(64, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 5, 9]).view(3, 1, 1)
    z = normalise(x, fit_mean_std([x]))
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3), correction=0), torch.ones(3))
    assert z.dtype == torch.float32


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_a_constant_feature_is_only_shifted(value: float) -> None:
    x = torch.stack([torch.full((999,), value), torch.arange(999.0)], dim=1)
    fitted = fit_mean_std(x.split(10))
    assert fitted.std[0] == 1.0
    assert fitted.std[1] == pytest.approx(288.386, abs=1e-3)  # sqrt((999^2 - 1) / 12)


def test_tokens_stay_as_they_are() -> None:
    tokens = torch.tensor([[1, 2], [3, 4]])
    assert normalise(tokens, None) is tokens


def test_no_batches_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no batches"):
        fit_mean_std([])


def test_one_number_serves_any_number_of_channels() -> None:
    z = normalise(torch.full((2, 3, 4, 4), 0.75), MeanStd((0.5,), (0.125,)))
    torch.testing.assert_close(z, torch.full((2, 3, 4, 4), 2.0))


def test_numbers_by_channel_do_not_fit_other_inputs() -> None:
    three = MeanStd((0.5, 0.4, 0.3), (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match=r"have 1 channel\(s\) or feature\(s\), but there are 3 means"):
        normalise(torch.zeros(2, 1, 4, 4), three)
    with pytest.raises(DataError, match="there are 3 means"):
        normalise(torch.zeros(2, 3, 4), three)  # its second dimension is no channel


def test_given_numbers_do_not_fit_tokens() -> None:
    with pytest.raises(DataError, match="tokens") as caught:
        normalise(torch.zeros(2, 3, dtype=torch.int64), MeanStd((0.5,), (0.5,)))
    assert "--mean and --std" in caught.value.hint


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (None, None, None),
        ("0.5", "0.25", MeanStd((0.5,), (0.25,))),
        ("0.485, 0.456,0.406", "0.2,0.3,0.4", MeanStd((0.485, 0.456, 0.406), (0.2, 0.3, 0.4))),
        ("0", "1,2", MeanStd((0.0, 0.0), (1.0, 2.0))),
        ("-1,1", "1e-1", MeanStd((-1.0, 1.0), (0.1, 0.1))),
    ],
)
def test_options_become_numbers(mean: str | None, std: str | None, expected: MeanStd | None) -> None:
    assert parse_mean_std(mean, std) == expected


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ("0.5", None, "--mean: is given without --std"),
        (None, "0.5", "--std: is given without --mean"),
        ("half", "1", "--mean: half is not a list of numbers"),
        ("0.5,", "1", "--mean: 0.5, is not a list of numbers"),
        ("0", "inf", "--mean 0 --std inf: a number is not finite"),
        ("nan", "1", "--mean nan --std 1: a number is not finite"),
        ("0", "1,0", "--mean 0 --std 1,0: a deviation is not above 0"),
        ("0", "-1", "--mean 0 --std -1: a deviation is not above 0"),
        ("1,2", "1,2,3", "--mean 1,2 --std 1,2,3: there are 2 means and 3 deviations, not one of each a channel"),
    ],
)
def test_other_options_are_usage_errors(mean: str | None, std: str | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_mean_std(mean, std)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2
