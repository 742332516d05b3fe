"""The toy of two parameters: gradient descent, history models and the push, by hand."""

import numpy as np
import pytest

from mclir_nb.views import toy


def test_toy_without_push_is_gradient_descent():
    run = toy.descend(0.0, steps=3, learning_rate=0.1, start=(-1.0, 0.5))
    theta = np.array([-1.0, 0.5])
    for step in range(3):
        np.testing.assert_allclose(run.theta[step], theta)
        theta = theta - 0.1 * toy.gradient(theta)
    assert not run.push.any()


def test_toy_gradient_is_that_of_the_landscape():
    points, h = np.array([[-1.0, 0.3], [0.4, 0.2], [0.0, 0.01]]), 1e-6
    for axis in range(2):
        shift = h * np.eye(2)[axis]
        slope = (toy.landscape(points + shift) - toy.landscape(points - shift)) / (2 * h)
        np.testing.assert_allclose(toy.gradient(points)[:, axis], slope, atol=1e-6)
    assert toy.landscape([0.0, 0.0]) == 0


def test_toy_by_hand_with_one_history_model():
    """One refresh at step 2, decay 0.25: 0.25 old + 0.75 new; the push is lambda times a sign."""
    run = toy.descend(0.5, every=(2,), decay=0.25, steps=3, learning_rate=0.1)
    np.testing.assert_array_equal(run.history[0][0], run.theta[0])
    np.testing.assert_array_equal(run.history[1][0], run.theta[0])
    np.testing.assert_allclose(run.history[2][0], 0.25 * run.theta[0] + 0.75 * run.theta[2])
    np.testing.assert_allclose(run.push[1], 0.5 * np.sign(run.theta[1] - run.theta[0]))
    np.testing.assert_allclose(run.theta[2] - run.theta[1], 0.1 * (run.pull[1] + run.push[1]))


def test_toy_tells_the_story():
    """No push: slow; a little: nearer; too much: past the answer and away, farther with every step."""
    none, little, much = (toy.descend(value, steps=150) for value in (0.0, 0.1, 0.5))
    assert little.l_rec[-1] < 0.5 * none.l_rec[-1]
    assert much.l_rec.min() < 0.01 and (np.diff(much.l_rec[-50:]) > 0).all()


def test_toy_refuses_numbers_out_of_range():
    with pytest.raises(ValueError, match="lambda_neg.*-0.1"):
        toy.descend(-0.1)


def test_no_arrow_of_the_playground_crosses_its_inset():
    descents = [toy.descend(value, steps=150) for value in (0.0, 0.05, 0.1, 0.2, 0.3)]  # as in 01_explain
    scene = toy.Scene(descents)
    left, bottom, right, top = scene.map.child_axes[0].get_tightbbox().extents  # with its title
    for descent in descents:
        for force in (descent.pull, descent.push):
            length = 4 * np.minimum(1, 0.25 / np.linalg.norm(force, axis=1).clip(1e-9))
            along = np.linspace(0, 1, 20)[:, None, None] * force * length[:, None]
            x, y = scene.map.transData.transform((descent.theta + along).reshape(-1, 2)).T
            assert not ((x > left) & (x < right) & (y > bottom) & (y < top)).any()
