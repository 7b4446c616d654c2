"""What is said of parameters that cannot be computed with."""

import numpy as np
import pytest

import utils
from tests.fixtures.checkpoints import hf_tensors, write_hf_folder
from tests.fixtures.openai_folder import DATA, openai_files
from tests.fixtures.random_models import TINY, random_params

OPENAI = TINY | {"n_vocab": 260}


@pytest.fixture(params=["model.safetensors", DATA])
def damaged(request, tmp_path):
    """damaged(name, value): a model is read whose parameter `name` ends with that value."""

    def read(name, value):
        params = random_params(OPENAI)
        utils.named(params)[name].flat[-1] = value
        folder = tmp_path / "model"
        folder.mkdir()
        if request.param == DATA:
            for file, content in openai_files(params, OPENAI).items():
                (folder / file).write_bytes(content)
        else:
            write_hf_folder(folder, TINY, hf_tensors(params | {"wte": params["wte"][:61]}))
        return folder / request.param, utils.load_encoder_hparams_and_params("model", str(tmp_path))

    return read


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20, -1e38])
@pytest.mark.parametrize("name", ["wpe", "blocks.1.mlp.c_fc.b", "ln_f.g"])
def test_the_file_and_the_parameter_are_named(damaged, name, value):
    path, (_, _, params) = damaged(name, value)
    message = utils.damage_in(params)
    assert str(path) in message and name in message and "\n" not in message
    named = utils.named(params)
    assert not [other for other in named if other != name and f" {other} " in message]


def test_the_first_of_several_is_named():
    params = random_params(TINY)
    params["wpe"][0, 0] = params["ln_f"]["b"][3] = np.nan
    assert "wpe" in utils.damage_in(params) and "ln_f" not in utils.damage_in(params)


def test_what_comes_from_no_file_is_called_the_parameters():
    params = random_params(TINY)
    params["wpe"][0, 0] = np.nan
    assert utils.damage_in(params).startswith("the parameters: wpe has a NaN")


def test_if_each_parameter_is_finite_that_is_said(tmp_path):
    params = random_params(TINY)
    assert "though each parameter is" in utils.damage_in(params)
    write_hf_folder(tmp_path / "tiny", TINY, hf_tensors(params))
    _, _, params = utils.load_encoder_hparams_and_params("tiny", str(tmp_path))
    assert str(tmp_path / "tiny" / "model.safetensors") in utils.damage_in(params)
