"""Tokens, strands, masks and contexts of biological sequences."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from rankone.nn.bio import (
    DNATokenizer,
    PostHocRC,
    ProteinTokenizer,
    SmilesTokenizer,
    concat_homologues,
    fill_in_the_middle,
    join_molecules,
    mask_tokens,
    rc_augment,
    restore_fim,
    reverse_complement,
    strip_salts,
)
from rankone.nn.xlstm import DNA_COMPLEMENT, XLSTMLM

PROTEIN = "MKVLAAGIVGLLLAQPSWERTYFDHNCK" * 3


class TestTokenizers:
    def test_dna_vocabulary_is_the_published_one(self):
        tokenizer = DNATokenizer()
        assert tokenizer.vocab_size == 12
        names = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", *"ACGTN")
        assert tokenizer.tokens == names
        complement = [0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11]
        assert tokenizer.complement_map.tolist() == complement == list(DNA_COMPLEMENT)
        assert (tokenizer.mask_id, tokenizer.pad_id) == (3, 4)

    def test_dna_encoding_adds_nothing(self):
        tokenizer = DNATokenizer()
        assert tokenizer.encode("ACGTN").tolist() == [7, 8, 9, 10, 11]
        assert tokenizer.encode("").tolist() == []
        assert tokenizer.encode("").dtype == torch.int64
        assert tokenizer.encode("aRt").tolist() == [7, 6, 10]
        assert tokenizer.encode("A[MASK]C").tolist() == [7, 3, 8]
        assert tokenizer.decode(tokenizer.encode("GATTACAN")) == "GATTACAN"
        assert tokenizer.decode([0, 7, 3, 1], keep_frame=True) == "[CLS]A[MASK][SEP]"
        assert tokenizer.decode([0, 7, 3, 1]) == "A[MASK]"

    def test_protein_vocabulary_is_the_published_one(self):
        tokenizer = ProteinTokenizer()
        assert tokenizer.vocab_size == 38
        assert tokenizer.tokens == (
            "<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>",
            "<mask>", "<mask-1>", "<mask-2>", "<mask-3>", "<mask-4>", "<mask-5>",
        )  # fmt: skip
        assert tokenizer.complement_map is None
        assert tokenizer.span_ids == (33, 34, 35, 36, 37)

    def test_protein_encoding_starts_with_cls(self):
        tokenizer = ProteinTokenizer()
        assert tokenizer.encode("LAG").tolist() == [0, 4, 5, 6]
        assert tokenizer.encode("lag", add_cls=False).tolist() == [4, 5, 6]
        assert tokenizer.encode("L*<mask-2>").tolist() == [0, 4, 3, 34]
        assert tokenizer.decode(tokenizer.encode(PROTEIN)) == PROTEIN
        assert tokenizer.decode([0, 4, 33], keep_frame=True) == "<cls>L<mask-1>"

    def test_smiles_are_split_into_atoms(self):
        text = "C[C@@H]1CCl.BrC%12[NH3+]"
        pieces = ["C", "[C@@H]", "1", "C", "Cl", ".", "Br", "C", "%12", "[NH3+]"]
        assert SmilesTokenizer.split(text) == pieces
        tokenizer = SmilesTokenizer.train([text])
        assert tokenizer.tokens[:3] == ("[PAD]", "[BEG]", "[END]")
        assert tokenizer.tokens[3:] == tuple(sorted(set(pieces)))
        ids = tokenizer.encode(text)
        assert (ids[0], ids[-1], len(ids)) == (1, 2, 12)
        assert tokenizer.decode(ids) == text
        assert torch.equal(tokenizer.encode(text, add_frame=False), ids[1:-1])
        assert tokenizer.encode("").tolist() == [1, 2]

    def test_what_cannot_be_read_is_named(self):
        tokenizer = SmilesTokenizer.train(["CCO"])
        with pytest.raises(ValueError, match="smiles must be made of known tokens, got 'N'"):
            tokenizer.encode("CCN")
        for tokenizer_ in (DNATokenizer(), ProteinTokenizer(), tokenizer):
            with pytest.raises(TypeError, match="must be a string, got NoneType"):
                tokenizer_.encode(None)
        with pytest.raises(ValueError, match="tokens must differ"):
            SmilesTokenizer(["C", "C"])
        with pytest.raises(ValueError, match=r"ids must be in 0\.\.11, got 12"):
            DNATokenizer().decode([3, 12])
        with pytest.raises(ValueError, match=r"ids must be 1-D, got shape \(1, 2\)"):
            DNATokenizer().decode([[1, 2]])


class TestReverseComplement:
    def test_it_is_watson_and_crick(self):
        tokenizer = DNATokenizer()
        strand = reverse_complement(tokenizer.encode("AACGTN[MASK]"), tokenizer)
        assert tokenizer.decode(strand) == "[MASK]NACGTT"

    def test_twice_is_the_identity(self):
        ids = torch.randint(12, (3, 50))
        assert torch.equal(reverse_complement(reverse_complement(ids)), ids)
        mask = torch.rand(3, 50) < 0.7
        once = reverse_complement(ids, attention_mask=mask)
        assert torch.equal(reverse_complement(once, attention_mask=mask), ids)

    def test_padding_stays_where_it_is(self):
        tokenizer = DNATokenizer()
        ids = tokenizer.encode("AAC[PAD][PAD]")[None]
        other = reverse_complement(ids, attention_mask=(ids != tokenizer.pad_id).int())
        assert tokenizer.decode(other[0], keep_frame=True) == "GTT[PAD][PAD]"
        other = reverse_complement(ids.flip(1), attention_mask=(ids != tokenizer.pad_id).flip(1))
        assert tokenizer.decode(other[0], keep_frame=True) == "[PAD][PAD]TTG"

    def test_dtype_is_kept(self):
        assert reverse_complement(torch.tensor([7, 8], dtype=torch.int32)).dtype == torch.int32

    def test_a_tokenizer_without_complements_is_refused(self):
        with pytest.raises(ValueError, match="complement_map, got ProteinTokenizer without one"):
            reverse_complement(torch.tensor([4]), ProteinTokenizer())
        for call in (reverse_complement, rc_augment, lambda ids: mask_tokens(ids, DNATokenizer())):
            with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got list"):
                call([7, 8])
        with pytest.raises(ValueError, match=r"attention_mask must have shape \(2, 5\)"):
            reverse_complement(torch.ones(2, 5).long(), attention_mask=torch.ones(5))

    def test_augmentation_turns_whole_rows(self):
        batch = torch.randint(7, 11, (4000, 9))
        generator = torch.Generator().manual_seed(0)
        result = rc_augment(batch, 0.3, generator)
        other = reverse_complement(batch)
        kept, turned = (result == batch).all(1), (result == other).all(1)
        assert (kept | turned).all()
        # Five standard errors of a share of 0.3; an odd length is never its own complement.
        share = turned.double().mean()
        assert abs(share - 0.3) < 5 * (0.21 / 4000) ** 0.5
        again = rc_augment(batch, 0.3, torch.Generator().manual_seed(0))
        assert torch.equal(again, result)
        assert torch.equal(rc_augment(batch, 0.0), batch)
        assert torch.equal(rc_augment(batch, 1.0), other)
        with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 2"):
            rc_augment(batch, 2)
        with pytest.raises(ValueError, match="batch must be 2-D"):
            rc_augment(batch[0])


class TestPostHoc:
    def model(self, **options):
        torch.manual_seed(0)
        return XLSTMLM(12, 16, 2, num_heads=2, direction="bidirectional", **options).double()

    def test_predictions_are_the_mean_of_both_strands(self):
        model = self.model()
        ids = torch.randint(7, 11, (2, 30))
        output = PostHocRC(model)(ids)
        other = model(reverse_complement(ids)).logits.flip(1)[..., list(DNA_COMPLEMENT)]
        torch.testing.assert_close(output.logits, (model(ids).logits + other) / 2)

    def test_any_model_becomes_equivariant(self):
        ids = torch.randint(7, 11, (2, 30))
        mask = torch.ones_like(ids)
        mask[0, 20:] = 0
        for model in (self.model(), self.model(slstm_at=(1,)), torch.nn.Embedding(12, 12).double()):
            both = PostHocRC(model)

            def logits(ids, both=both, **options):
                output = both(ids, **options)
                return output if isinstance(output, torch.Tensor) else output.logits

            turned = logits(ids).flip(1)[..., list(DNA_COMPLEMENT)]
            assert (logits(reverse_complement(ids)) - turned).abs().max() < 1e-12
        both = PostHocRC(self.model())
        turned = both(ids, attention_mask=mask).logits[0, :20].flip(0)[..., list(DNA_COMPLEMENT)]
        other = reverse_complement(ids, attention_mask=mask)
        assert (both(other, attention_mask=mask).logits[0, :20] - turned).abs().max() < 1e-12

    def test_it_is_not_the_model_with_shared_parameters(self):
        """Averaging is linear in the logits; both are equivariant and they differ."""
        ids = torch.randint(7, 11, (1, 30))
        shared = self.model(rc_equivariance="ps", complement_map=DNA_COMPLEMENT)
        plain = self.model(complement_map=DNA_COMPLEMENT)
        assert (PostHocRC(plain)(ids).logits - shared(ids).logits).abs().max() > 1e-3

    def test_what_belongs_to_one_strand_is_refused(self):
        ids = torch.randint(7, 11, (1, 30))
        for name, value in (("labels", ids), ("return_state", True), ("cu_seqlens", ids[0])):
            with pytest.raises(ValueError, match=f"{name} must be None: it belongs to one strand"):
                PostHocRC(self.model())(ids, **{name: value})


class TestMasking:
    def test_shares_are_fifteen_percent_and_eighty_ten_ten(self):
        tokenizer = DNATokenizer()
        ids = torch.randint(7, 11, (400, 500))
        inputs, labels = mask_tokens(ids, tokenizer, generator=torch.Generator().manual_seed(0))
        selected = labels != -100
        n = ids.numel()
        assert abs(selected.double().mean() - 0.15) < 5 * (0.15 * 0.85 / n) ** 0.5
        assert torch.equal(labels[selected], ids[selected])
        assert torch.equal(inputs[~selected], ids[~selected])
        chosen = inputs[selected]
        m = len(chosen)
        masked = (chosen == tokenizer.mask_id).double().mean()
        assert abs(masked - 0.8) < 5 * (0.16 / m) ** 0.5
        # A random base is the base itself in a quarter of the draws.
        changed = ((chosen != ids[selected]) & (chosen != tokenizer.mask_id)).double().mean()
        assert abs(changed - 0.075) < 5 * (0.07 / m) ** 0.5
        assert set(inputs.unique().tolist()) == {3, 7, 8, 9, 10}

    def test_special_tokens_are_never_selected(self):
        tokenizer = DNATokenizer()
        ids = torch.randint(0, 12, (100, 100))
        _, labels = mask_tokens(ids, tokenizer, 1.0)
        assert torch.equal(labels != -100, ids >= 7)

    def test_proteins_have_a_mask_and_molecules_have_none(self):
        ids = ProteinTokenizer().encode(PROTEIN)
        inputs, labels = mask_tokens(ids, ProteinTokenizer(), 1.0)
        assert labels[0] == -100
        assert set(inputs.tolist()) <= {0, 32, *range(4, 24)}
        with pytest.raises(ValueError, match="tokenizer must have a mask_id, got SmilesTokenizer"):
            mask_tokens(ids, SmilesTokenizer(["C"]))
        with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1\.5"):
            mask_tokens(ids, ProteinTokenizer(), 1.5)

    def test_it_is_repeatable_and_leaves_its_input_alone(self):
        ids = torch.randint(7, 11, (5, 40))
        before = ids.clone()
        draws = [
            mask_tokens(ids, DNATokenizer(), generator=torch.Generator().manual_seed(5))
            for _ in range(2)
        ]
        assert all(torch.equal(one, other) for one, other in zip(*draws, strict=True))
        assert torch.equal(ids, before)


class TestFillInTheMiddle:
    def test_restoring_is_its_inverse_and_no_residue_is_lost(self):
        rng = np.random.default_rng(0)
        tokenizer = ProteinTokenizer()
        holes = set()
        for length in [*range(8), 20, 50, 84] * 20:
            ids = tokenizer.encode(PROTEIN[:length])
            result, positions = fill_in_the_middle(ids, rng)
            assert torch.equal(restore_fim(result), ids)
            residues = result[(result >= 4) & (result < 31)]
            assert torch.equal(residues.sort().values, ids[1:].sort().values)
            assert result.shape == positions.shape
            holes.add(int((result >= 33).sum()) // 2)
        assert holes == {0, 1, 2, 3, 4} | (holes & {5})

    def test_layout_and_positions(self):
        rng = np.random.default_rng(4)
        ids = ProteinTokenizer().encode(PROTEIN)
        for _ in range(200):
            result, positions = fill_in_the_middle(ids, rng)
            if not (result == 2).any():
                assert torch.equal(result, ids)
                assert torch.equal(positions, torch.arange(len(ids)))
                continue
            end = int((result == 2).nonzero())
            assert positions[end] == 0
            assert result[0] == 0
            # Every residue stands at the position it came from.
            residue = (result >= 4) & (result < 31)
            assert torch.equal(ids[positions[residue]], result[residue])
            places = [
                [int(p) for t, p in zip(part, where, strict=True) if t >= 33]
                for part, where in (
                    (result[:end], positions[:end]),
                    (result[end + 1 :], positions[end + 1 :]),
                )
            ]
            assert places[0] == places[1] == sorted(places[0])
            masks = [int(t) for t in result[:end] if t >= 33]
            assert masks == list(range(33, 33 + len(masks)))
            assert [int(t) for t in result[end + 1 :] if t >= 33] == masks
            # The first token of a span stands where its mask does.
            after = result[end + 1 :]
            first = (after >= 33).nonzero().flatten()
            where = positions[end + 1 :]
            assert torch.equal(where[first], where[first + 1])
            # A span is at most a fifth of the way to the next start.
            starts = [*places[0], len(ids)]
            lengths = np.diff([*first.tolist(), len(after)]) - 1
            for start, following, length in zip(starts, starts[1:], lengths, strict=False):
                assert 1 <= length <= max(int(0.2 * (following - start)), 2) - 1

    def test_number_of_spans_is_poisson_without_its_tail(self):
        rng = np.random.default_rng(1)
        ids = ProteinTokenizer().encode(PROTEIN)
        counts = np.bincount(
            [int((fill_in_the_middle(ids, rng)[0] >= 33).sum()) // 2 for _ in range(3000)],
            minlength=6,
        )
        weights = np.exp(-1.0) / np.array([1, 1, 2, 6, 24, 120])
        expected = 3000 * weights / weights.sum()
        # chi-squared with 5 degrees of freedom: 25.7 once in 10^4.
        assert ((counts - expected) ** 2 / expected).sum() < 25.7
        assert len(counts) == 6

    def test_texts_and_lists_are_read(self):
        ids, _ = fill_in_the_middle(PROTEIN, np.random.default_rng(0), mean_spans=5)
        assert ProteinTokenizer().decode(restore_fim(ids.tolist())) == PROTEIN
        unchanged, _ = fill_in_the_middle([0, 4, 5], np.random.default_rng(0), max_spans=0)
        assert unchanged.tolist() == [0, 4, 5]
        one, _ = fill_in_the_middle("", np.random.default_rng(0), mean_spans=5)
        assert one.tolist() == [0]

    def test_options_and_tokens_out_of_range_are_named(self):
        rng = np.random.default_rng(0)
        for options, message in (
            ({"max_spans": 6}, r"max_spans must be in 0\.\.5, got 6"),
            ({"mean_spans": -1}, "mean_spans must be at least 0, got -1"),
            ({"max_fraction": 1.0}, r"max_fraction must be in \[0, 1\), got 1"),
        ):
            with pytest.raises(ValueError, match=message):
                fill_in_the_middle(PROTEIN, rng, **options)
        with pytest.raises(ValueError, match="seq must not hold <eos> or <mask-1>"):
            fill_in_the_middle([0, 4, 2], rng)
        with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, got int"):
            fill_in_the_middle(PROTEIN, 0)
        with pytest.raises(ValueError, match="seq must be 1-D"):
            fill_in_the_middle([[0, 4]], rng)

    def test_holes_and_contents_must_match(self):
        encode = ProteinTokenizer().encode
        for text, message in (
            ("MK<mask-1>A", "got holes alone"),
            ("MK<mask-1>A<eos><mask-2>V", "one content a hole"),
            ("MK<eos>V", "name a span mask after <eos>"),
            ("M<mask-1><eos><mask-1>V<mask-1>A", "fill a hole once, got <mask-1> twice"),
        ):
            with pytest.raises(ValueError, match=message):
                restore_fim(encode(text))


class TestContexts:
    def test_every_homologue_starts_anew(self):
        ids, positions = concat_homologues(["LAG", "V", "SER"])
        assert ids.tolist() == [0, 4, 5, 6, 0, 7, 0, 8, 9, 10]
        assert positions.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3]
        ids, _ = concat_homologues(["LAG", "V", "SER"], max_length=9)
        assert ids.tolist() == [0, 4, 5, 6, 0, 7]
        assert concat_homologues([])[0].shape == (0,)

    def test_order_and_holes_are_drawn(self):
        texts = [PROTEIN[start : start + 20] for start in range(6)]
        ids, positions = concat_homologues(
            texts, rng=np.random.default_rng(0), shuffle=True, fim=True
        )
        assert ids.shape == positions.shape
        starts = [*(ids == 0).nonzero().flatten().tolist(), len(ids)]
        decode = ProteinTokenizer().decode
        restored = [decode(restore_fim(ids[start:end])) for start, end in pairwise(starts)]
        assert sorted(restored) == sorted(texts)
        assert restored != texts
        assert (ids >= 33).any()
        for option in ("shuffle", "fim"):
            with pytest.raises(ValueError, match="rng must be given with shuffle or fim"):
                concat_homologues(texts, **{option: True})

    def test_positions_are_what_the_model_reads_apart(self):
        """Rotary positions start again; the state does not, so the context is one text."""
        torch.manual_seed(0)
        model = XLSTMLM(38, 16, 1, num_heads=2, rope=True).double()
        ids, positions = concat_homologues(["LAGV", "SERT"])
        restarted = model(ids[None], position_ids=positions[None]).logits
        assert torch.equal(restarted[:, :5], model(ids[None]).logits[:, :5])
        assert (restarted[:, 5:] - model(ids[None]).logits[:, 5:]).abs().max() > 1e-9

    def test_salts_are_stripped_and_molecules_joined(self):
        assert strip_salts("Cl.CCN(CC)CC") == "CCN(CC)CC"
        assert strip_salts("CCO") == "CCO"
        # Two tokens are more than one, whatever the characters of a bracket atom.
        assert strip_salts("[Na+].CO") == "CO"
        tokenizer = SmilesTokenizer.train(["CCO", "CCN", "C", "."])
        ids = join_molecules(["CCO", "CCN", "C"], tokenizer)
        assert (ids[0], ids[-1]) == (1, 2)
        assert tokenizer.decode(ids) == "CCO.CCN.C"
        orders = {
            tokenizer.decode(
                join_molecules(["CCO", "CCN", "C"], tokenizer, rng=np.random.default_rng(seed))
            )
            for seed in range(20)
        }
        assert len(orders) > 1
        assert {tuple(sorted(text.split("."))) for text in orders} == {("C", "CCN", "CCO")}
        with pytest.raises(ValueError, match=r"no fragments of their own, got 'C\.C'"):
            join_molecules(["C.C"], tokenizer)
