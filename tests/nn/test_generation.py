"""Generation against repeated full forward passes, and sampling against its distribution."""

import pytest
import torch
from rankone.nn import LanguageModel, LanguageModelConfig, generate, sample_logits

VOCAB = 13


@pytest.fixture(params=["lightning_attention", "softmax_attention"])
def model(request):
    torch.manual_seed(0)
    config = LanguageModelConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        mixer=request.param,
        initializer_range=0.5,
    )
    return LanguageModel(config).double().eval()


def prompts(batch=3, time=9):
    return torch.randint(VOCAB, (batch, time), generator=torch.Generator().manual_seed(5))


def greedy_by_full_forward(model, text, count):
    for _ in range(count):
        text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], 1)
    return text


def test_greedy_generation_equals_repeated_full_forward(model):
    expected = greedy_by_full_forward(model, prompts(), 20)
    assert torch.equal(model.generate(prompts(), 20, temperature=0.0), expected)
    assert expected[:, 9:].unique().numel() > 2


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_prompts_continue_like_prompts_alone(model, side):
    prompt = prompts()
    mask = torch.ones_like(prompt)
    pads = [0, 3, 8]
    for row, pad in enumerate(pads):
        mask[row, slice(0, pad) if side == "left" else slice(9 - pad, 9)] = 0
    together = generate(model, prompt, 12, temperature=0.0, attention_mask=mask)
    for row in range(3):
        alone = prompt[row : row + 1, mask[row].bool()]
        expected = greedy_by_full_forward(model, alone, 12)[:, -12:]
        assert torch.equal(together[row : row + 1, 9:], expected)


def test_ended_texts_are_filled_with_the_end_token_and_all_ended_stops(model):
    free = model.generate(prompts(), 30, temperature=0.0)[:, 9:]
    eos = int(free[0, 4])
    ended = model.generate(prompts(), 30, temperature=0.0, eos=eos)[:, 9:]
    longest = 0
    for row in range(3):
        places = (free[row] == eos).nonzero()
        end = int(places[0]) if len(places) else 29
        longest = max(longest, end + 1)
        assert torch.equal(ended[row, : end + 1], free[row, : end + 1])
        assert (ended[row, end + 1 :] == eos).all()
    assert ended.shape[1] == longest


def test_same_seed_gives_the_same_text(model):
    draw = [model.generate(prompts(), 15, random_state=seed) for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(model.generate(prompts(), 15, random_state=generator), draw[0])


def test_state_of_linear_attention_has_one_size_at_every_length():
    config = LanguageModelConfig(vocab_size=VOCAB, hidden_size=16, num_layers=2, num_heads=2)
    model = LanguageModel(config)

    def state_bytes(length):
        state = model(prompts(1, length), return_state=True).state
        return sum(part.numel() * part.element_size() for part in state)

    assert state_bytes(1) == state_bytes(500) == 2 * 2 * 8 * 8 * 4


def test_generation_keeps_the_training_mode_and_no_graph(model):
    model.train()
    assert not model.generate(prompts(), 2).requires_grad
    assert model.training


def test_no_new_tokens_give_the_prompt_back(model):
    assert torch.equal(model.generate(prompts(), 0), prompts())


class TestSampling:
    logits = torch.tensor([2.0, 0.5, 1.0, -1.0, 0.0]).log_softmax(-1)
    draws = 20_000

    def frequencies(self, **options):
        drawn = sample_logits(
            self.logits.expand(self.draws, -1),
            generator=torch.Generator().manual_seed(0),
            **options,
        )
        return torch.bincount(drawn, minlength=5) / self.draws

    def check(self, frequencies, expected):
        # Five standard errors of a frequency.
        bound = 5 * (expected * (1 - expected) / self.draws).sqrt()
        assert ((frequencies - expected).abs() <= bound).all()

    def test_temperature_divides_the_logits(self):
        for temperature in (1.0, 0.5, 3.0):
            self.check(
                self.frequencies(temperature=temperature), (self.logits / temperature).softmax(-1)
            )

    def test_top_k_keeps_the_k_most_likely(self):
        expected = self.logits.exp() * torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
        self.check(self.frequencies(top_k=2), expected / expected.sum())
        self.check(self.frequencies(top_k=50), self.logits.exp())

    def test_top_p_keeps_the_fewest_tokens_that_reach_it(self):
        p = self.logits.exp()
        two = float(p[0] + p[2])
        for top_p, kept in ((two - 1e-3, [0, 2]), (two + 1e-3, [0, 1, 2]), (1e-6, [0])):
            expected = torch.zeros(5)
            expected[kept] = p[kept]
            self.check(self.frequencies(top_p=top_p), expected / expected.sum())
        self.check(self.frequencies(top_p=1.0), p)

    def test_zero_temperature_takes_the_most_likely(self):
        assert sample_logits(self.logits[None], temperature=0.0).item() == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"temperature": -1.0}, "temperature must be at least 0 and finite, got -1.0"),
            ({"temperature": float("nan")}, "temperature must be at least 0 and finite, got nan"),
            ({"top_k": 0}, "top_k must be at least 1, got 0"),
            ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
            ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ],
    )
    def test_options_out_of_range_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            sample_logits(self.logits[None], **options)


def test_prompts_that_cannot_be_continued_are_named(model):
    with pytest.raises(ValueError, match=r"prompt must have shape .* got \(1, 0\)"):
        model.generate(torch.zeros(1, 0, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 0, got -1"):
        model.generate(prompts(), -1)
    with pytest.raises(ValueError, match="attention_mask must leave at least one token"):
        model.generate(prompts(), 1, attention_mask=torch.zeros(3, 9, dtype=torch.bool))
