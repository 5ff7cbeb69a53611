"""The protocols of OpenAI's speech recognition: uploads and realtime transcription sessions."""
