"""Names of transformers' tokenizer classes whose rules are not written down in `tokenizer_class`.

A folder that names one would get ids by other rules than its tokenizer.json's. A test compares the list with the
transformers that is installed.
"""

from __future__ import annotations

# fmt: off
UNFOLLOWED = frozenset(
    {
        "AlbertTokenizer", "BartTokenizer", "BarthezTokenizer", "BartphoTokenizer", "BasicTokenizer",
        "BertGenerationTokenizer", "BertJapaneseTokenizer", "BertTokenizer", "BertweetTokenizer",
        "BigBirdTokenizer", "BioGptTokenizer", "BlenderbotSmallTokenizer", "BlenderbotTokenizer", "ByT5Tokenizer",
        "CLIPTokenizer", "CTRLTokenizer", "CamembertTokenizer", "CanineTokenizer", "CharacterTokenizer",
        "ClvpTokenizer", "CodeGenTokenizer", "CohereTokenizer", "ConvBertTokenizer", "CpmAntTokenizer",
        "CpmTokenizer", "DPRContextEncoderTokenizer", "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer",
        "DebertaTokenizer", "DebertaV2Tokenizer", "DiaTokenizer", "DistilBertTokenizer", "EsmTokenizer",
        "EsmcTokenizer", "FNetTokenizer", "FSMTTokenizer", "FastSpeech2ConformerTokenizer", "FlaubertTokenizer",
        "FunnelTokenizer", "GPTNeoXJapaneseTokenizer", "GPTSw3Tokenizer", "HerbertTokenizer", "LasrTokenizer",
        "LayoutLMv2Tokenizer", "LayoutLMv3Tokenizer", "LayoutXLMTokenizer", "LukeTokenizer", "M2M100Tokenizer",
        "MBart50Tokenizer", "MBartTokenizer", "MLukeTokenizer", "MPNetTokenizer", "MarianTokenizer",
        "MarkupLMTokenizer", "MecabTokenizer", "MgpstrTokenizer", "MistralCommonBackend", "MistralCommonTokenizer",
        "MobileBertTokenizer", "MyT5Tokenizer", "NllbTokenizer", "NougatTokenizer", "OpenAIGPTTokenizer",
        "PLBartTokenizer", "ParakeetTokenizer", "PegasusTokenizer", "PerceiverTokenizer", "PhobertTokenizer",
        "Pop2PianoTokenizer", "ProphetNetTokenizer", "Qwen3_5Tokenizer", "RagTokenizer", "ReformerTokenizer",
        "RemBertTokenizer", "RoCBertTokenizer", "RoFormerTokenizer", "RobertaTokenizer", "SeamlessM4TTokenizer",
        "SentencePieceBackend", "Siglip2Tokenizer", "SiglipTokenizer", "Speech2TextTokenizer", "SpeechT5Tokenizer",
        "SplinterTokenizer", "SqueezeBertTokenizer", "T5Tokenizer", "TapasTokenizer", "Tipsv2Tokenizer",
        "UdopTokenizer", "VideoPrismTokenizer", "VitsTokenizer", "Wav2Vec2CTCTokenizer",
        "Wav2Vec2PhonemeCTCTokenizer", "WhisperTokenizer", "WordpieceTokenizer", "XGLMTokenizer",
        "XLMRobertaTokenizer", "XLMTokenizer", "XLNetTokenizer",
    }
)
