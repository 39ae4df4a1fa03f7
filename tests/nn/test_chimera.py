"""The layers and models on the 2D selective scan."""

import math

import pytest
import torch
from rankone.nn import (
    Chimera,
    ChimeraBlock,
    ClosedLoopDecoder,
    SelectiveScan2d,
    SeriesDecomposition,
    VisionChimera2d,
)
from rankone.nn.selective_scan_2d import ScanTransitions
from rankone.ops import selective_scan_2d_reference

STRUCTURES = ("diagonal", "scalar", "companion")
every_structure = pytest.mark.parametrize("structure", STRUCTURES)


def grid(batch=2, rows=3, columns=9, width=8, dtype=torch.float32):
    return torch.randn(batch, rows, columns, width, dtype=dtype)


def reached(layer, x, row, column):
    """The cells that a change of one cell changes."""
    with torch.no_grad():
        before = layer(x)
        changed = x.clone()
        # Not the same for every feature, which a norm would take away.
        changed[:, row, column] += torch.randn(x.shape[-1])
        return (layer(changed) - before).abs().amax((0, 3)) > 0


class TestSelectiveScan2d:
    @every_structure
    @pytest.mark.parametrize("selective", [True, False])
    def test_gradients_reach_every_parameter(self, structure, selective):
        layer = SelectiveScan2d(8, d_state=4, structure=structure, selective=selective)
        layer(grid()).square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()), name

    def test_the_layer_is_its_formula(self):
        layer = SelectiveScan2d(4, d_state=3, d_conv=0, bidirectional=False).double()
        x = grid(width=4, dtype=torch.float64)
        scan = layer.heads["scan"][0]
        u, z = (x @ layer.in_proj.weight.T).chunk(2, -1)
        u = u * torch.sigmoid(u)
        rank, n = 1, 3
        parts = (u @ scan.x_proj.weight.T).split([rank, rank, n, n, n, n], -1)
        dt1, dt2 = parts[0] @ scan.dt1_proj.weight.T, parts[1] @ scan.dt2_proj.weight.T
        a1, a4 = -scan.transitions.a1.exp(), -scan.transitions.a4.exp()
        limit = 0.99 * (a1 * a4).sqrt()
        a2, a3 = limit * scan.transitions.a2.tanh(), limit * scan.transitions.a3.tanh()
        y = selective_scan_2d_reference(
            u, dt1, dt2, a1, a2, a3, a4, *parts[2:], scan.D, z=z, dt1_bias=scan.dt1_bias,
            dt2_bias=scan.dt2_bias, dt_softplus=True,
        )  # fmt: skip
        torch.testing.assert_close(layer(x), y @ layer.out_proj.weight.T, rtol=1e-11, atol=1e-11)

    def test_forward_only_sees_what_is_above_and_before(self):
        cells = reached(SelectiveScan2d(8, d_state=4, bidirectional=False), grid(), 1, 3)
        expected = torch.zeros(3, 9, dtype=torch.bool)
        expected[1:, 3:] = True
        assert torch.equal(cells, expected)

    def test_both_ways_every_variate_is_reached_and_time_stays_causal(self):
        cells = reached(SelectiveScan2d(8, d_state=4), grid(), 1, 3)
        assert bool(cells[:, 3:].all())
        assert not bool(cells[:, :3].any())

    def test_without_variates_rows_do_not_meet(self):
        cells = reached(SelectiveScan2d(8, d_state=4, variates=False), grid(), 1, 3)
        expected = torch.zeros(3, 9, dtype=torch.bool)
        expected[1, 3:] = True
        assert torch.equal(cells, expected)

    def test_both_directions_have_parameters_of_their_own(self):
        one, both = (SelectiveScan2d(8, d_state=4, bidirectional=b) for b in (False, True))
        first, second = both.heads["scan"]
        assert first is not second
        assert not torch.equal(first.x_proj.weight, second.x_proj.weight)
        count = sum(p.numel() for p in one.heads.parameters())
        assert sum(p.numel() for p in both.heads.parameters()) == 2 * count

    def test_the_second_direction_sees_the_whole_grid_mirrored(self):
        """Exchanging the directions' parameters mirrors the layer, steps, B and C included."""
        layer = SelectiveScan2d(8, d_state=4).double()
        x = grid(dtype=torch.float64)
        expected = layer(x).flip(1)
        layer.heads["scan"] = torch.nn.ModuleList(reversed(layer.heads["scan"]))
        torch.testing.assert_close(layer(x.flip(1)), expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("bidirectional", [True, False])
    @every_structure
    def test_steps_equal_the_whole_call(self, structure, bidirectional):
        layer = SelectiveScan2d(
            8, d_state=4, structure=structure, bidirectional=bidirectional
        ).double()
        x = grid(dtype=torch.float64)
        expected, last = layer(x, return_state=True)
        assert torch.equal(layer(x), expected)
        state, outputs = None, []
        for t in range(9):
            y, state = layer.step(x[:, :, t], state)
            outputs.append(y)
        torch.testing.assert_close(torch.stack(outputs, 2), expected, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(state, last, rtol=1e-11, atol=1e-12)

    def test_halves_with_the_state_handed_over_are_the_whole(self):
        layer = SelectiveScan2d(8, d_state=4).double()
        x = grid(dtype=torch.float64)
        first, state = layer(x[:, :, :4], return_state=True)
        second = layer(x[:, :, 4:], state=state, return_state=True)[0]
        torch.testing.assert_close(torch.cat([first, second], 2), layer(x), rtol=1e-11, atol=1e-12)

    def test_steps_start_in_their_ranges(self):
        layer = SelectiveScan2d(64, dt1_range=(1e-3, 1e-1), dt2_range=(1e-2, 1.0))
        for scan in layer.heads["scan"]:
            for bias, (low, high) in (
                (scan.dt1_bias, (1e-3, 1e-1)), (scan.dt2_bias, (1e-2, 1.0)),
            ):  # fmt: skip
                steps = torch.nn.functional.softplus(bias)
                assert bool((steps >= 0.999 * low).all())
                assert bool((steps <= 1.001 * high).all())
                # Log-uniform: half of them below the geometric mean, of 128 draws.
                share = (steps < math.sqrt(low * high)).float().mean()
                assert 0.3 < float(share) < 0.7

    def test_the_special_cases_are_constructors(self):
        first = SelectiveScan2d.mamba_2d(8, d_state=4)
        second = SelectiveScan2d.mamba2_2d(8, d_state=4, head_dim=4)
        assert first.heads["scan"][0].transitions.a1.shape == (16, 4)
        assert second.heads["scan"][0].transitions.a1.shape == (4, 1)
        assert second.heads["scan"][0].dt1_bias.shape == (4,)
        values = second.heads["scan"][0].transitions()["A1"]
        assert values.shape == (16, 1)
        assert torch.equal(values[::4].repeat_interleave(4, 0), values)
        assert second(grid()).shape == grid().shape

    def test_states_are_refused_with_a_decomposition_that_looks_ahead(self):
        block = ChimeraBlock(8, d_state=4, decompose=True)
        with pytest.raises(ValueError, match="state and return_state must be left out"):
            block(grid(columns=30), return_state=True)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"d_model": 0}, "d_model must be at least 1, got 0"),
            ({"d_state": 0}, "d_state must be at least 1"),
            ({"d_conv": -1}, "d_conv must be at least 0"),
            ({"dt_rank": 0}, "dt_rank must be 'auto' or at least 1"),
            ({"dt_rank": "full"}, "dt_rank must be 'auto'"),
            ({"dt1_range": (0.0, 1.0)}, "dt1_range must be"),
            ({"dt2_range": (1.0, 0.1)}, "dt2_range must be"),
            ({"structure": "dense"}, "structure must be one of"),
            ({"discretization": "none"}, "discretization must be one of"),
            ({"structure": "companion", "discretization": "exp"}, "must be 'zoh' with structure"),
            ({"structure": "scalar", "head_dim": 3}, "head_dim must divide d_inner=16, got 3"),
        ],
    )
    def test_mistakes_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            SelectiveScan2d(**{"d_model": 8, **options})

    @pytest.mark.parametrize("shape", [(2, 3, 8), (2, 3, 9, 7)])
    def test_inputs_of_another_shape_are_refused(self, shape):
        with pytest.raises(ValueError, match="x must"):
            SelectiveScan2d(8)(torch.randn(shape))


class TestStability:
    @pytest.mark.parametrize("structure", ["diagonal", "scalar"])
    def test_parameters_of_any_size_keep_the_coupling_below_its_bound(self, structure):
        transitions = ScanTransitions(6, 4, structure, 2, True)
        with torch.no_grad():
            for parameter in transitions.parameters():
                parameter.copy_(4 * torch.randn_like(parameter))
        a = transitions()
        assert bool((a["A1"] < 0).all())
        assert bool((a["A4"] < 0).all())
        bound = a["A1"] * a["A4"]
        assert bool(((a["A2"] * a["A3"]).abs() <= 0.99**2 * bound * (1 + 1e-5)).all())

    def test_companion_columns_are_normalised(self):
        transitions = ScanTransitions(6, 4, "companion", 1, True)
        with torch.no_grad():
            for parameter in transitions.parameters():
                parameter.copy_(4 * torch.randn_like(parameter))
        a = transitions()
        for name in ("A1", "A2"):
            assert bool((a[name].abs().sum(-1) <= 1 + 1e-6).all())
        assert bool((a["gamma"].abs() <= 0.5).all())
        small = ScanTransitions(6, 4, "companion", 1, True)
        with torch.no_grad():
            small.a1.copy_(torch.full((6, 4), 0.1))
        assert torch.equal(small()["A1"], small.a1)

    def test_a_long_wild_input_stays_bounded(self):
        layer = SelectiveScan2d(4, d_state=4)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if ".a2" in name or ".a3" in name:
                    parameter.fill_(10.0)
            y = layer(torch.sin(torch.arange(2000.0)).expand(1, 3, 4, -1).transpose(2, 3))
        assert bool(y.isfinite().all())
        assert y[:, :, 1000:].abs().max() < 2 * y[:, :, :1000].abs().max()


class TestChimeraBlock:
    def test_heads_differ_in_their_steps(self):
        block = ChimeraBlock(64, d_state=4)
        softplus = torch.nn.functional.softplus
        for scan in block.heads["trend"]:
            steps = softplus(scan.dt1_bias.detach())
            assert 0.999e-3 <= steps.min().item() <= steps.max().item() <= 1.001e-1
        for scan in block.heads["seasonal"]:
            steps = softplus(scan.dt1_bias.detach())
            assert 0.999e-1 <= steps.min().item() <= steps.max().item() <= 1.001

    def test_is_a_residual_of_gated_scans_of_the_norm(self):
        block = ChimeraBlock(8, d_state=4, heads=("seasonal",)).double()
        x = grid(dtype=torch.float64)
        expected = x + block.mix(block.norm(x), None, False)[0]
        assert torch.equal(block(x), expected)
        with torch.no_grad():
            block.out_proj.weight.zero_()
        assert torch.equal(block(x), x)

    def test_heads_are_summed(self):
        block = ChimeraBlock(8, d_state=4).double()
        x = grid(dtype=torch.float64)
        total = block(x) - x
        parts = []
        for name in ("trend", "seasonal"):
            one = ChimeraBlock(8, d_state=4, heads=(name,)).double()
            one.load_state_dict(block.state_dict(), strict=False)
            parts.append(one(x) - x)
        torch.testing.assert_close(parts[0] + parts[1], total, rtol=1e-11, atol=1e-12)

    def test_time_is_causal(self):
        cells = reached(ChimeraBlock(8, d_state=4), grid(), 1, 3)
        assert bool(cells[:, 3:].all())
        assert not bool(cells[:, :3].any())

    def test_without_a_gate_there_is_no_gate(self):
        assert ChimeraBlock(8, gate=False).in_proj.out_features == 16
        assert ChimeraBlock(8).in_proj.out_features == 32

    def test_the_decomposition_feeds_trend_and_remainder(self):
        block = ChimeraBlock(8, d_state=4, decompose=True, d_conv=0, gate=False).double()
        x = grid(columns=30, dtype=torch.float64)
        u = torch.nn.functional.silu(block.in_proj(block.norm(x)))
        remainder, trend = SeriesDecomposition(25).double()(u.flatten(0, 1))
        total = 0
        for name, part in (("trend", trend), ("seasonal", remainder)):
            for scan, corner in zip(block.heads[name], block.corners, strict=True):
                total = total + scan(part.view_as(u), corner, None, False)[0]
        torch.testing.assert_close(block(x), x + block.out_proj(total), rtol=1e-11, atol=1e-12)

    def test_steps_equal_the_whole_call(self):
        block = ChimeraBlock(8, d_state=4).double()
        x = grid(dtype=torch.float64)
        state, outputs = None, []
        for t in range(9):
            y, state = block.step(x[:, :, t], state)
            outputs.append(y)
        torch.testing.assert_close(torch.stack(outputs, 2), block(x), rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("heads", [(), ("trend", "trend"), ("daily",)])
    def test_unknown_heads_are_refused(self, heads):
        with pytest.raises(ValueError, match="heads must be distinct names"):
            ChimeraBlock(8, heads=heads)

    def test_a_decomposition_needs_both_heads(self):
        with pytest.raises(ValueError, match="heads must be 'trend' and 'seasonal'"):
            ChimeraBlock(8, heads=("trend",), decompose=True)


class TestSeriesDecomposition:
    def test_the_average_continues_the_ends(self):
        x = torch.randn(2, 10, 3, dtype=torch.float64)
        remainder, trend = SeriesDecomposition(5)(x)
        padded = torch.cat([x[:, :1].repeat(1, 2, 1), x, x[:, -1:].repeat(1, 2, 1)], 1)
        expected = torch.stack([padded[:, t : t + 5].mean(1) for t in range(10)], 1)
        torch.testing.assert_close(trend, expected)
        torch.testing.assert_close(remainder + trend, x)

    def test_a_constant_is_its_own_trend_and_a_ramp_is_inside(self):
        ramp = torch.arange(20.0, dtype=torch.float64)[None, :, None]
        _, trend = SeriesDecomposition(7)(torch.ones_like(ramp))
        torch.testing.assert_close(trend, torch.ones_like(ramp))
        _, trend = SeriesDecomposition(7)(ramp)
        torch.testing.assert_close(trend[:, 3:-3], ramp[:, 3:-3])

    @pytest.mark.parametrize("size", [0, 4, -1])
    def test_even_sizes_are_refused(self, size):
        with pytest.raises(ValueError, match="kernel_size must be odd"):
            SeriesDecomposition(size)

    def test_a_short_series_is_refused(self):
        with pytest.raises(ValueError, match=r"at most 2 \* length - 1 = 23, got 25"):
            SeriesDecomposition(25)(torch.zeros(1, 12, 1))


class TestClosedLoopDecoder:
    @every_structure
    def test_running_on_is_the_open_loop_over_its_own_feedback(self, structure):
        decoder = ClosedLoopDecoder(4, d_state=3, structure=structure).double()
        x = grid(width=4, dtype=torch.float64)
        y, _ = decoder(x, horizon=6)
        extended = x
        for _ in range(6):
            predicted, _ = decoder.read(extended)
            extended = torch.cat([extended, predicted[:, :, -1:]], 2)
        scan = {**decoder.scan.scan_arguments(extended)}
        whole = selective_scan_2d_reference(extended, **scan)
        torch.testing.assert_close(y, whole[:, :, 9:], rtol=1e-11, atol=1e-12)

    def test_a_forced_step_is_a_column_of_the_scan(self):
        decoder = ClosedLoopDecoder(4, d_state=3).double()
        x = grid(width=4, dtype=torch.float64)
        _, state = decoder.read(x[:, :, :8])
        y, after = decoder.step(x[:, :, 8], state)
        _, expected = decoder.read(x)
        torch.testing.assert_close(after, expected, rtol=1e-11, atol=1e-12)
        whole = selective_scan_2d_reference(x, **decoder.scan.scan_arguments(x))
        torch.testing.assert_close(y, whole[:, :, 8], rtol=1e-11, atol=1e-12)

    def test_the_error_is_that_of_the_next_input(self):
        decoder = ClosedLoopDecoder(4, d_state=3).double()
        x = grid(width=4, dtype=torch.float64)
        predicted, _ = decoder.read(x)
        expected = (predicted[:, :, :-1] - x[:, :, 1:]).square().mean()
        assert decoder(x, horizon=1)[1].item() == pytest.approx(expected.item())

    def test_the_cost_does_not_depend_on_the_lookback(self, monkeypatch):
        """One scan over the lookback, then one column a step."""
        from rankone.nn import chimera as module

        columns = []
        scan, step = module.selective_scan_2d, module.selective_scan_2d_step
        monkeypatch.setattr(
            module, "selective_scan_2d", lambda x, **k: columns.append(x.shape[2]) or scan(x, **k)
        )
        monkeypatch.setattr(
            module, "selective_scan_2d_step", lambda x, **k: columns.append(1) or step(x, **k)
        )
        ClosedLoopDecoder(4, d_state=3)(grid(columns=50, width=4), horizon=5)
        assert columns == [50, 1, 1, 1, 1, 1]

    def test_gradients_reach_every_parameter(self):
        decoder = ClosedLoopDecoder(4, d_state=3)
        y, error = decoder(grid(width=4), horizon=3)
        (y.square().sum() + error).backward()
        assert all(bool(p.grad.any()) for p in decoder.parameters())

    def test_a_horizon_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="horizon must be at least 1"):
            ClosedLoopDecoder(4)(grid(width=4), horizon=0)


def small(**options):
    defaults = {"n_variates": 3, "lookback": 24, "horizon": 6, "d_model": 8, "n_layers": 1}
    return Chimera(**{**defaults, "d_state": 4, **options})


class TestChimera:
    @every_structure
    @pytest.mark.parametrize("decoder", ["direct", "closed_loop"])
    def test_forecasts_and_trains_every_parameter(self, structure, decoder):
        model = small(structure=structure, decoder=decoder)
        forecast, error = model.forward_with_feedback_error(torch.randn(2, 24, 3))
        assert forecast.shape == (2, 6, 3)
        assert (error > 0) == (decoder == "closed_loop")
        (forecast.square().sum() + error).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name

    def test_any_number_of_variates_works(self):
        model = small()
        assert model(torch.randn(2, 24, 7)).shape == (2, 6, 7)
        assert model(torch.randn(2, 24, 1)).shape == (2, 6, 1)

    @pytest.mark.parametrize("decoder", ["direct", "closed_loop"])
    def test_windows_are_normalised_by_themselves(self, decoder):
        model = small(decoder=decoder).double()
        x = torch.randn(2, 24, 3, dtype=torch.float64)
        shift, factor = torch.tensor([5.0, -7.0, 100.0]), torch.tensor([3.0, 0.1, 20.0])
        moved = model(x * factor + shift)
        # The 1e-5 beside the standard deviation is not scaled with the series.
        torch.testing.assert_close(moved, model(x) * factor + shift, rtol=1e-3, atol=1e-3)

    def test_a_constant_variate_is_forecast_finitely(self):
        x = torch.randn(2, 24, 3)
        x[:, :, 1] = 4.0
        forecast = small()(x)
        assert bool(forecast.isfinite().all())
        torch.testing.assert_close(forecast[:, :, 1], torch.full((2, 6), 4.0), rtol=0, atol=1e-3)

    def test_without_revin_the_level_counts(self):
        model = small(revin=False)
        x = torch.randn(2, 24, 3)
        assert not torch.allclose(model(x + 5), model(x) + 5, atol=1e-2)

    def test_a_linear_forecaster_is_contained(self):
        model = small().double()
        with torch.no_grad():
            model.head.weight.zero_()
            model.head.bias.zero_()
        x = torch.randn(2, 24, 3, dtype=torch.float64)
        mean, std = x.mean(1, keepdim=True), x.std(1, correction=0, keepdim=True) + 1e-5
        normalised = ((x - mean) / std).transpose(1, 2)
        expected = (normalised @ model.skip.weight.T + model.skip.bias).transpose(1, 2)
        torch.testing.assert_close(model(x), expected * std + mean, rtol=1e-11, atol=1e-11)

    def test_variates_inform_each_other(self):
        model = small()
        x = torch.randn(1, 24, 3)
        changed = x.clone()
        changed[:, 10:, 0] += torch.randn(1, 14)
        difference = (model(changed) - model(x)).abs().amax((0, 1))
        assert bool((difference > 0).all())

    def test_the_order_of_variates_matters_no_more_than_their_direction(self):
        """Mirroring the variates and exchanging the directions' parameters changes nothing."""
        model = small().double()
        x = torch.randn(2, 24, 3, dtype=torch.float64)
        expected = model(x).flip(2)
        for block in model.blocks:
            for name in ("trend", "seasonal"):
                block.heads[name] = torch.nn.ModuleList(reversed(block.heads[name]))
        torch.testing.assert_close(model(x.flip(2)), expected, rtol=1e-10, atol=1e-10)

    def test_classification(self):
        model = small(task="classification", n_classes=5)
        logits = model(torch.randn(2, 24, 3))
        assert logits.shape == (2, 5)
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 4])).backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_anomaly_scores_are_squared_errors_of_the_reconstruction(self):
        model = small(task="anomaly")
        x = torch.randn(2, 24, 3)
        score = model.anomaly_score(x)
        torch.testing.assert_close(score, (model(x) - x).square())
        assert score.shape == x.shape
        with pytest.raises(RuntimeError, match="needs task='anomaly'"):
            small().anomaly_score(x)

    def test_it_compiles_and_runs_under_autocast(self):
        model = small(heads=("trend",), bidirectional=False)
        x = torch.randn(2, 24, 3)
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(x).float(), expected, rtol=0.1, atol=0.1)

    def test_state_dicts_round_trip(self):
        model, other = small(decoder="closed_loop"), small(decoder="closed_loop")
        other.load_state_dict(model.state_dict())
        x = torch.randn(2, 24, 3)
        assert torch.equal(model(x), other(x))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n_variates": 0}, "n_variates must be at least 1"),
            ({"lookback": 0}, "lookback must be at least 1"),
            ({"horizon": 0}, "horizon must be at least 1"),
            ({"n_layers": 0}, "n_layers must be at least 1"),
            ({"decoder": "linear"}, "decoder must be one of"),
            ({"task": "regression"}, "task must be one of"),
            ({"task": "classification"}, "n_classes must be given for task='classification'"),
            ({"n_classes": 3}, "n_classes must be given for task='classification' and only there"),
            ({"task": "classification", "n_classes": 1}, "n_classes must be at least 2"),
            ({"structure": "dense"}, "structure must be one of"),
        ],
    )
    def test_mistakes_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            small(**options)

    @pytest.mark.parametrize("shape", [(24, 3), (2, 23, 3)])
    def test_windows_of_another_length_are_refused(self, shape):
        with pytest.raises(ValueError, match="x must"):
            small()(torch.randn(shape))


class TestVisionChimera2d:
    @pytest.mark.parametrize("directions", [1, 2, 4])
    def test_shape_and_gradients(self, directions):
        layer = VisionChimera2d(8, d_state=4, directions=directions)
        y = layer(torch.randn(2, 5, 6, 8))
        assert y.shape == (2, 5, 6, 8)
        y.square().sum().backward()
        assert all(p.grad is not None for p in layer.parameters())

    def test_four_corners_see_everything_and_one_a_quadrant(self):
        x = torch.randn(1, 5, 6, 8)
        assert bool(reached(VisionChimera2d(8, d_state=4), x, 2, 3).all())
        one = reached(VisionChimera2d(8, d_state=4, directions=1), x, 2, 3)
        expected = torch.zeros(5, 6, dtype=torch.bool)
        expected[2:, 3:] = True
        assert torch.equal(one, expected)

    def test_corners_sum_their_flipped_scans(self):
        layer = VisionChimera2d(4, d_state=3).double()
        x = torch.randn(1, 4, 5, 4, dtype=torch.float64)
        u, z = layer.in_proj(x).chunk(2, -1)
        u = torch.nn.functional.silu(u)
        total = 0
        for scan, (rows, columns) in zip(layer.heads["scan"], layer.corners, strict=True):
            axes = [axis for axis, flip in ((1, rows), (2, columns)) if flip]
            y = selective_scan_2d_reference(
                u.flip(axes), D=scan.D, **scan.scan_arguments(u.flip(axes))
            )
            total = total + y.flip(axes)
        expected = layer.out_proj(total * torch.nn.functional.silu(z))
        torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("directions", [0, 3, 8])
    def test_other_directions_are_refused(self, directions):
        with pytest.raises(ValueError, match="directions must be 1, 2 or 4"):
            VisionChimera2d(8, directions=directions)
