"""Options of the experiment."""

from dataclasses import dataclass
from pathlib import Path

from experiments.common import Data, Output, Seeds


@dataclass(frozen=True)
class Config(Data, Seeds, Output):
    """Compares three generations of speech recognition on spoken digits."""

    seeds: int = 3
    output: Path = Path("runs/speech")
    states: int = 8
    """number of states of each digit's hidden Markov model"""
    mixtures: int = 4
    """number of Gaussians per state"""
    pieces: int = 448
    """largest number of utterances per digit that train the hidden Markov models"""
    iterations: int = 8
    """number of iterations of Baum-Welch"""
    penalty: float = 0.0
    """word insertion penalty with Gaussian mixtures, in nats"""
    net_penalty: float = 0.0
    """word insertion penalty with the frame classifier, in nats"""
    hidden: tuple[int, ...] = (256, 256)
    """units of the frame classifier's hidden layers"""
    pretraining: int = 3
    """epochs per restricted Boltzmann machine"""
    frames: int = 60000
    """number of training frames, drawn separately for each frame classifier"""
    epochs: int = 10
    """epochs of the frame classifier"""
    net_rate: float = 2e-3
    """initial learning rate of the frame classifier, with cosine decay to 0"""
    features: int = 128
    """units of the LSTM per direction"""
    layers: int = 1
    """number of LSTM layers"""
    updates: int = 1300
    """number of training steps of the LSTM, with 32 utterances each"""
    learning_rate: float = 3e-3
    """initial learning rate of the LSTM, with cosine decay to 0"""
    dropout: float = 0.4
    """dropout rate of the LSTM's outputs"""
    noise: float = 0.6
    """standard deviation of the noise added to the LSTM's inputs in training"""
    mask: int = 8
    """largest number of consecutive steps masked in training"""
    strings: int = 1080
    """number of training strings of 3 to 7 digits, joined from the training recordings"""
    test_strings: int = 120
    """number of strings joined from the test recordings; 100 per held-out speaker"""
    speakers: int = 6
    """number of speakers held out, one after another; at most 6"""
    validation: bool = False
    """evaluate on recordings 5 to 9 of the training split instead, to choose options"""

    def __post_init__(self):
        super().__post_init__()
        if self.states < 2:
            raise ValueError(f"states must be at least 2, got {self.states}")
        if self.speakers > 6:
            raise ValueError(f"speakers must be at most 6, got {self.speakers}")
