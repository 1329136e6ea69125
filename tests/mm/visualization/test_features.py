import numpy as np
import pytest
import torch

from slab_det.mm.visualization.features import draw_features, feature_colours, feature_strength


def test_strength_is_the_root_mean_square_over_channels():
    feature = torch.tensor([[[3.0, 0.0]], [[4.0, 1.0]]])
    assert feature_strength(feature) == pytest.approx(np.sqrt([[12.5, 0.5]]))


def test_colours_tell_regions_apart_and_are_repeatable():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(4, 16, generator=generator)
    regions = torch.arange(4).repeat_interleave(25).reshape(10, 10)
    feature = means[regions].permute(2, 0, 1) + 0.01 * torch.randn(16, 10, 10, generator=generator)
    colours = feature_colours(feature)
    assert colours.shape == (10, 10, 3) and colours.min() >= 0 and colours.max() <= 1
    centres = np.stack([colours[regions == region].mean(0) for region in range(4)])
    spread = max(np.ptp(colours[regions == region], axis=0).max() for region in range(4))
    distance = min(np.abs(centres[i] - centres[j]).max() for i in range(4) for j in range(i))
    assert spread < 0.2 < distance
    # Channels in another order are the same features.
    assert np.allclose(feature_colours(feature.flip(0)), colours, atol=1e-5)


def test_a_map_of_one_direction_uses_one_colour_and_a_flat_one_none():
    ramp = torch.arange(12.0).reshape(1, 3, 4) * torch.ones(5, 1, 1)
    colours = feature_colours(ramp)
    assert np.ptp(colours[..., 0]) == 1 and not colours[..., 1:].any()
    assert not feature_colours(torch.ones(5, 3, 4)).any()


def test_a_figure_has_two_rows_with_a_panel_per_level():
    image = np.zeros((40, 60, 3), np.uint8)
    figure = draw_features(image, [torch.randn(8, 10, 15), torch.randn(8, 5, 8)], ['a', 'b'])
    assert len(figure.axes) == 6
    assert [axis.get_title() for axis in figure.axes[1:3]] == ['a', 'b']
